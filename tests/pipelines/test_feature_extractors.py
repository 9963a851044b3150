"""From a trained model or a published file to what reads features, and the mistakes on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
import torch
from box_model import box_model
from error_lines import check_error
from recorded import record_of, weights_of
from tiny import TWO_LEVELS

from guided_diffusion.config.load import read_config
from guided_diffusion.config.pipeline import LoadConfig
from guided_diffusion.features.diffusion import DiffusionFeatures
from guided_diffusion.features.extractor import FeatureExtractor, digest_of
from guided_diffusion.features.options import FeatureOptions
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.features import feature_store, features_of_checkpoint, published_features
from guided_diffusion.runtime.checkpoint import find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError


def options(**values) -> FeatureOptions:
    found = FeatureOptions(**values)
    assert not list(found.check())
    return found


def extractor(
    folder: Path, *, lineage: dict | None = None, seed: int = 0, generates: str = "image", **values
) -> FeatureExtractor:
    checkpoint = load_checkpoint(find_checkpoint(folder))
    if lineage is not None:
        checkpoint.lineage = lineage
    trained = trained_config(checkpoint, read_config(LoadConfig, {"model_path": str(folder)}))
    trained = trained.replaced(generates=generates)
    return features_of_checkpoint(options(**values), checkpoint, trained, seed=seed)


@pytest.fixture(scope="module")
def run(lemons, tmp_path_factory) -> Callable[..., Path]:
    """Train for one epoch, and return the folder."""

    def train(**values) -> Path:
        folder = tmp_path_factory.mktemp("run") / "x"
        base = {**TWO_LEVELS, "data_dir": lemons, "output_dir": folder, "max_epochs": 1}
        assert command_line.run("train", **{**base, **values}) == 0
        return folder

    return train


@pytest.fixture(scope="module")
def alone(run) -> Path:
    """A run of images alone, gray."""
    return run(condition="none", image_channels=1)


def sources_of(found: FeatureExtractor) -> set[str]:
    return {block.split(".")[0] for block in found.settings()["blocks"]}


def images(found: FeatureExtractor, count: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, found.image_channels, *found.image_size, generator=draw) - 1


@pytest.mark.slow
def test_a_model_of_images_alone(alone):
    found = extractor(alone)
    assert (found.image_size, found.image_channels, found.value_range) == ((16, 16), 1, (-1, 1))
    assert sources_of(found) == {"decoder"}
    maps = found.maps(images(found))
    assert [tuple(values.shape[1:]) for values in maps] == [tuple(shape) for shape in found.shapes]
    assert found.dims == tuple(shape.channels for shape in found.shapes)
    assert all(values.dtype == torch.float16 for values in maps)
    assert torch.equal(maps[-1], images(found).half())  # the values of the pixels
    without = extractor(alone, feature_rgb=False)
    assert isinstance(without, DiffusionFeatures)
    assert without.dims == found.dims[:-1]
    again = extractor(alone).maps(images(found))
    assert all(torch.equal(*pair) for pair in zip(maps, again, strict=True))


@pytest.mark.slow
def test_settings_name_the_weights(alone, run):
    other = run(condition="none", image_channels=1, seed=1)
    settings = [extractor(alone).settings(), extractor(alone, seed=1).settings(), extractor(other).settings()]
    assert len({digest_of(each) for each in settings}) == 3


@pytest.mark.parametrize(
    ("lineage", "source", "expected"),
    [
        ({"saw_dropped_masks": True}, "auto", "decoder"),
        ({"saw_dropped_masks": False}, "auto", "encoder"),
        ({}, "auto", "encoder"),
        ({}, "decoder", "decoder"),
        ({"saw_dropped_masks": True}, "encoder", "encoder"),
    ],
)
def test_the_half_that_is_read(trained, lineage, source, expected):
    found = extractor(trained, lineage=lineage, feature_source=source)
    assert sources_of(found) == {expected}
    assert all(values.isfinite().all() for values in found.maps(images(found)))


def test_the_decoder_of_a_network_that_needs_masks_is_refused(trained):
    with pytest.raises(ConfigError) as caught:
        extractor(trained, lineage={"saw_dropped_masks": False}, feature_source="decoder")
    assert caught.value.keys == ("feature_source",)
    (message,) = caught.value.messages
    assert "finetune" in message


@pytest.mark.slow
def test_of_a_model_of_boxes_the_encoder_is_read(lemons, isdm, tmp_path):
    folder = box_model(lemons, tmp_path / "boxes")
    found = extractor(folder, lineage={"saw_dropped_masks": True})
    assert sources_of(found) == {"encoder"}
    assert all(values.isfinite().all() for values in found.maps(images(found)))
    with pytest.raises(ConfigError) as caught:
        extractor(folder, feature_source="decoder")
    assert caught.value.keys == ("feature_source",)
    values = {"model_path": folder, "classifier_path": tmp_path / "x.pt", "num_samples": 1}
    code, _, (line,) = isdm("generate", **values, results_path=tmp_path / "drawn")
    assert code == 2
    check_error(line, "model_path", "boxes")


def test_blocks_and_steps_as_given(trained):
    found = extractor(trained, feature_blocks=(1, 0), feature_steps=(250, 50), feature_rgb=False)
    assert found.settings()["blocks"] == ["decoder.0", "decoder.1"]
    assert found.timesteps[0] > found.timesteps[1]
    inputs = extractor(trained, feature_blocks=(1,), feature_inputs=True, feature_rgb=False)
    assert inputs.settings()["blocks"] == ["decoder.1.input"]
    assert inputs.dims[0] == 2 * found.dims[1]
    with pytest.raises(ConfigError) as caught:
        extractor(trained, feature_blocks=(1, 2))
    assert caught.value.keys == ("feature_blocks",)


def test_a_model_that_makes_masks_is_refused(trained):
    with pytest.raises(ConfigError) as caught:
        extractor(trained, generates="pair")
    assert caught.value.keys == ("model_path",)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"extractor": "mae"}, "extractor_weights"),
        ({"extractor_weights": "x.pth"}, "extractor_weights"),
        ({"feature_steps": (50, 1000)}, "feature_steps"),
        ({"feature_steps": ()}, "feature_steps"),
        ({"feature_blocks": ()}, "feature_blocks"),
        ({"extractor": "swav", "extractor_weights": "x.pth", "feature_blocks": (1,)}, "feature_blocks"),
        ({"extractor": "mae", "extractor_weights": "x.pth", "share_noise": False}, "share_noise"),
    ],
)
def test_contradictions_of_options(values, key):
    assert [found for found, _ in FeatureOptions(**values).check()] == [key]


@pytest.mark.slow
def test_published_files(tmp_path):
    path = tmp_path / "swav.pth.tar"
    torch.save({"state_dict": weights_of(record_of("ddpmseg_swav")["state_dict"])}, path)
    found = published_features(options(extractor="swav", extractor_weights=str(path)), image_size=(32, 48))
    assert sum(found.dims) == 6720 + 3
    assert len(found.maps(images(found, 1))) == 10
    for other in ("mae", "swav_w2"):
        with pytest.raises(CheckpointError) as caught:
            published_features(options(extractor=other, extractor_weights=str(path)))
        assert caught.value.path == str(path)


@pytest.mark.parametrize(("cache", "on_disk"), [("auto", False), ("memory", False), ("disk", True)])
def test_where_maps_are_kept(alone, tmp_path, cache, on_disk):
    found = extractor(alone, feature_cache=cache)
    store = feature_store(options(feature_cache=cache), found, ["a", "b"], tmp_path / "features")
    store.fill(lambda numbers: images(found)[list(numbers)])
    assert (store.on_disk, (tmp_path / "features").exists()) == (on_disk, on_disk)
    for values, one in zip(found.maps(images(found)), store[1], strict=True):
        assert torch.equal(values[1], one)
