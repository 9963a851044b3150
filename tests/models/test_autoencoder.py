"""Autoencoders: shapes, what of them is kept in checkpoints, and the layout of diffusers' AutoencoderKL."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from guided_diffusion.models.autoencoder import Autoencoder, AutoencoderShape
from guided_diffusion.models.autoencoder_kl import AutoencoderKL, KLShape, infer_shape, published_names
from guided_diffusion.models.first_stage import FirstStage
from guided_diffusion.pipelines.latent import read_autoencoder_kl
from guided_diffusion.runtime.errors import DataError

KL = KLShape(image_channels=3, latent_channels=4, widths=(32, 32, 64), blocks=2, quantized=True, attends=True)


def shape_of(factor: int, image_channels: int = 1, classes: int = 3) -> AutoencoderShape:
    labels = 2 if classes else 0
    return AutoencoderShape(image_channels, labels, classes, factor, latent_channels=5, width=8)


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize(("image_channels", "classes"), [(1, 3), (3, 0), (0, 4)])
def test_sides_become_smaller_by_the_factor_and_come_back(factor, image_channels, classes):
    model = Autoencoder(shape_of(factor, image_channels, classes))
    x = torch.randn(2, image_channels + (2 if classes else 0), 16, 32)
    posterior = model.posterior(x)
    assert posterior.mean.shape == posterior.log_std.shape == (2, 5, 16 // factor, 32 // factor)
    made = model.decode(posterior.mean)
    assert (made.image is None) == (image_channels == 0)
    assert (made.scores is None) == (classes == 0)
    if image_channels:
        assert made.image.shape == (2, image_channels, 16, 32)
    if classes:
        assert made.scores.shape == (2, classes, 16, 32)


def test_a_larger_autoencoder_has_about_three_million_weights():
    model = Autoencoder(AutoencoderShape(3, 3, 6, 4, 4, 64))
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6


def test_a_first_stage_has_nothing_to_train_and_standardized_latents():
    stage = FirstStage(Autoencoder(shape_of(4)))
    assert not list(stage.parameters())
    x = torch.randn(6, 3, 16, 16)
    raw = stage.autoencoder.posterior(x).mean
    stage.standardize(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    z = stage.encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-4
    made = stage.decode(z)
    assert torch.allclose(made.scores, stage.autoencoder.decode(raw).scores, atol=1e-4)


@pytest.mark.parametrize("autoencoder", [Autoencoder(shape_of(8)), AutoencoderKL(KL)], ids=["own", "kl"])
def test_a_first_stage_comes_back_from_its_state_and_weights(autoencoder):
    stage = FirstStage(autoencoder)
    with torch.no_grad():
        stage.mean += 1
    again = FirstStage.from_state(stage.to_state())
    again.load_state_dict(stage.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again.encode(x), stage.encode(x))


# --- AutoencoderKL -----------------------------------------------------------------------------------------------


def test_the_names_are_those_of_diffusers():
    names = AutoencoderKL(KL).state_dict().keys()
    expected = {
        "encoder.conv_in.weight",
        "encoder.down_blocks.0.resnets.1.norm1.weight",
        "encoder.down_blocks.1.downsamplers.0.conv.bias",
        "encoder.down_blocks.2.resnets.0.conv_shortcut.weight",
        "encoder.mid_block.attentions.0.group_norm.weight",
        "encoder.mid_block.attentions.0.to_out.0.bias",
        "encoder.mid_block.resnets.1.conv2.weight",
        "encoder.conv_norm_out.weight",
        "encoder.conv_out.bias",
        "decoder.conv_in.weight",
        "decoder.up_blocks.0.resnets.2.conv1.bias",
        "decoder.up_blocks.1.upsamplers.0.conv.weight",
        "decoder.mid_block.attentions.0.to_q.weight",
        "decoder.conv_norm_out.bias",
        "decoder.conv_out.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    }
    assert expected <= set(names)
    assert not any("encoder.down_blocks.2.downsamplers" in name for name in names)
    assert not any("decoder.up_blocks.2.upsamplers" in name for name in names)


def test_the_architecture_is_read_off_the_weights(tmp_path):
    for shape in (KL, KLShape(1, 3, (32, 64), 1, False, False)):
        model = AutoencoderKL(shape)
        assert infer_shape(model.state_dict()) == shape
        path = tmp_path / f"{shape.factor}.safetensors"
        save_file(model.state_dict(), path)
        stage = read_autoencoder_kl(path, shape.image_channels, shape.factor, None)
        x = torch.rand(2, shape.image_channels, 16, 16) * 2 - 1
        assert torch.equal(stage.encode(x), model.posterior(x).mean)
        assert stage.encode(x).shape == (2, shape.latent_channels, 16 // shape.factor, 16 // shape.factor)
        assert stage.decode(stage.encode(x)).image.shape == x.shape


def test_older_files_have_other_names_for_the_attention():
    weights = AutoencoderKL(KL).state_dict()
    old = {}
    for name, value in weights.items():
        for theirs, ours in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            if f"attentions.0.{ours}." in name:
                name, value = name.replace(ours, theirs), value
        old[name] = value[..., None, None] if "attentions" in name and value.ndim == 2 else value
    assert old.keys() != weights.keys()
    renamed = published_names(old)
    assert renamed.keys() == weights.keys()
    assert all(renamed[name].shape == value.shape for name, value in weights.items())


@pytest.mark.parametrize(
    ("channels", "factor", "latent_channels", "key"),
    [(1, 4, None, "image_channels"), (3, 8, None, "latent"), (3, 4, 8, "latent_channels")],
)
def test_a_file_of_other_channels_or_another_factor_is_refused(tmp_path, channels, factor, latent_channels, key):
    path = tmp_path / "vae.safetensors"
    save_file(AutoencoderKL(KL).state_dict(), path)
    with pytest.raises(DataError) as raised:
        read_autoencoder_kl(path, channels, factor, latent_channels)
    assert str(raised.value).startswith(str(path))
    assert f"its {key} is" in str(raised.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "vae.safetensors"
    for content in (b"no weights", None):
        if content is None:
            weights = AutoencoderKL(KL).state_dict()
            del weights["decoder.conv_in.weight"]
            save_file(weights, path)
        else:
            path.write_bytes(content)
        with pytest.raises(DataError):
            read_autoencoder_kl(path, 3, 4, None)
    with pytest.raises(DataError):
        read_autoencoder_kl(tmp_path / "missing.safetensors", 3, 4, None)
