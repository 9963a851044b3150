"""The noise process: reference numbers, and the algebra that must hold whatever a network predicts."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from flat_options import noise_process
from torch import Tensor

from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.gaussian import (
    GaussianDiffusion,
    discretized_log_likelihood,
    normal_kl,
)
from guided_diffusion.diffusion.samplers import ddim_mean
from guided_diffusion.diffusion.x0_hooks import clip

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("diffusion_*.npz"))
PREDICTIONS = ["eps", "x0", "v"]
VARIANCES = {
    "learned": {"learn_sigma": True},
    "fixed_large": {"learn_sigma": False},
    "fixed_small": {"learn_sigma": False, "sigma_small": True},
}
SHAPES = [(5, 3, 4, 6), (5, 1, 6, 4)]


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(diffusion: GaussianDiffusion, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x0, noise, t (first, last and between), x_t."""
    x0, noise = draw(shape, 1).clamp(-1, 1), draw(shape, 2)
    t = torch.linspace(0, diffusion.num_timesteps - 1, shape[0]).long()
    return x0, noise, t, diffusion.q_sample(x0, t, noise)


class Golden:
    """A recorded case and the process that its options describe."""

    def __init__(self, path: Path):
        self.recorded = dict(np.load(path))
        options = json.loads(path.with_suffix(".json").read_text())["options"]
        keys = ["diffusion_steps", "noise_schedule", "timestep_respacing", "learn_sigma", "use_kl"]
        keys += ["rescale_timesteps", "rescale_learned_sigmas"]
        prediction = "x0" if options["predict_xstart"] else "eps"
        self.diffusion = noise_process(prediction=prediction, **{key: options[key] for key in keys})
        inputs = ("x0", "noise", "model_output", "t", "x_t")
        self.x0, self.noise, self.output, self.t, self.x_t = (torch.from_numpy(self.recorded[k]) for k in inputs)

    def check(self, name: str, value: Tensor | np.ndarray | tuple[int, ...]) -> None:
        np.testing.assert_allclose(np.asarray(value), self.recorded[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
class TestGolden:
    def test_process(self, path: Path) -> None:
        case = Golden(path)
        np.testing.assert_array_equal(case.diffusion.timestep_map, case.recorded["timestep_map"])
        np.testing.assert_allclose(case.diffusion.betas, case.recorded["betas"], rtol=1e-9)
        np.testing.assert_array_equal(case.diffusion.model_t(case.t), case.recorded["model_t"])
        case.check("x_t", case.diffusion.q_sample(case.x0, case.t, case.noise))

    def test_reverse_step(self, path: Path) -> None:
        case = Golden(path)
        denoise = Denoiser(lambda x_t, t: case.output, case.diffusion, [clip])
        x0, log_variance = denoise.with_variance(case.x_t, case.t)
        mean, _, _ = case.diffusion.q_posterior(x0, case.x_t, case.t)
        variance, unexpanded = case.diffusion.model_variance(case.output, case.t)
        assert torch.equal(unexpanded.expand_as(log_variance), log_variance)
        for name, value in {"mean": mean, "log_variance": log_variance, "pred_xstart": x0}.items():
            case.check(name, value)
        case.check("variance", variance.expand_as(mean))
        steps = [
            ddim_mean(case.diffusion, x0[i : i + 1], case.x_t[i : i + 1], int(index), 0.0)
            for i, index in enumerate(case.t)
        ]
        case.check("ddim", torch.cat([mean for mean, _ in steps]))
        assert all(sigma == 0 for _, sigma in steps)

    def test_losses(self, path: Path) -> None:
        case = Golden(path)
        losses = case.diffusion.training_losses(case.output, case.x0, case.x_t, case.t, case.noise)
        assert losses.keys() == {"mse", "vb", "loss"}
        for name, value in losses.items():
            case.check(f"loss_{name}", value)


def test_there_are_golden_cases() -> None:
    assert len(GOLDEN) == 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
class TestPredictions:
    def build(self, prediction: str, variance: str, **options: object) -> GaussianDiffusion:
        return noise_process(diffusion_steps=100, prediction=prediction, **VARIANCES[variance], **options)

    def perfect_output(self, diffusion: GaussianDiffusion, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the output of a network that knows x0 (and has log-variances midway between the bounds)."""
        target = diffusion.target(x0, noise, t)
        return torch.cat([target, torch.zeros_like(target)], 1) if diffusion.variance == "learned" else target

    def test_target_gives_x0_and_noise_back(self, prediction: str, variance: str, shape: tuple[int, ...]) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        found = diffusion.predict_x0(self.perfect_output(diffusion, x0, noise, t), x_t, t)
        # Division by sqrt(abar) at the last step (0.006) magnifies float32's rounding.
        torch.testing.assert_close(found, x0, rtol=0, atol=1e-4)
        torch.testing.assert_close(diffusion.predict_eps(x0, x_t, t), noise, rtol=0, atol=1e-4)

    def test_losses_of_a_perfect_network(self, prediction: str, variance: str, shape: tuple[int, ...]) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        losses = diffusion.training_losses(self.perfect_output(diffusion, x0, noise, t), x0, x_t, t, noise)
        assert all(loss.shape == (shape[0],) and loss.dtype == torch.float32 for loss in losses.values())
        torch.testing.assert_close(losses["mse"], torch.zeros(shape[0]))
        if variance == "learned":
            assert (losses["vb"][1:] >= 0).all()
            assert losses["vb"][1:].max() < 0.5
        else:
            assert "vb" not in losses

    def test_reverse_mean_is_the_posterior_of_predicted_x0(
        self, prediction: str, variance: str, shape: tuple[int, ...]
    ) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        output = self.perfect_output(diffusion, x0, noise, t)
        mean, posterior_variance, _ = diffusion.q_posterior(x0, x_t, t)
        found, _, _ = diffusion.q_posterior(diffusion.predict_x0(output, x_t, t), x_t, t)
        torch.testing.assert_close(found, mean, rtol=0, atol=1e-4)
        variance, log_variance = diffusion.model_variance(output, t)
        assert found.dtype == variance.dtype == log_variance.dtype == torch.float32
        beta = torch.tensor(diffusion.betas, dtype=torch.float32)[t].view(-1, 1, 1, 1)
        assert (variance[1:] >= posterior_variance[1:] * 0.999).all()
        assert (variance[1:] <= beta[1:] * 1.001).all()

    def test_hooks_come_in_their_order(self, prediction: str, variance: str, shape: tuple[int, ...]) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        output = self.perfect_output(diffusion, x0, noise, t)
        seen = []

        def brighter(pred: Tensor, x: Tensor, at: Tensor) -> Tensor:
            seen.append((x, at))
            return pred + 0.5

        clipped, free, before = (
            Denoiser(lambda x, at: output, diffusion, hooks)(x_t, t)
            for hooks in ([brighter, clip], [brighter], [clip, brighter])
        )
        torch.testing.assert_close(free, x0 + 0.5, rtol=0, atol=1e-4)
        torch.testing.assert_close(clipped, free.clamp(-1, 1))
        torch.testing.assert_close(before, x0.clamp(-1, 1) + 0.5, rtol=0, atol=1e-4)
        assert all(torch.equal(x, x_t) and torch.equal(at, t) for x, at in seen)

    def test_one_network_call_gives_image_and_variance(
        self, prediction: str, variance: str, shape: tuple[int, ...]
    ) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        output, calls = self.perfect_output(diffusion, x0, noise, t), []

        def network(x: Tensor, at: Tensor) -> Tensor:
            calls.append(at)
            return output

        denoise = Denoiser(network, diffusion, [clip])
        found, log_variance = denoise.with_variance(x_t, t)
        assert len(calls) == 1
        assert torch.equal(found, denoise(x_t, t))
        assert torch.equal(found, diffusion.predict_x0(output, x_t, t).clamp(-1, 1))
        assert torch.equal(log_variance, diffusion.model_variance(output, t)[1].expand_as(x_t))

    def test_low_precision_output_gives_float32_losses(
        self, prediction: str, variance: str, shape: tuple[int, ...]
    ) -> None:
        diffusion = self.build(prediction, variance)
        x0, noise, t, x_t = batch(diffusion, shape)
        output = self.perfect_output(diffusion, x0, noise, t).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = diffusion.training_losses(output, x0, x_t, t, noise)
        full = diffusion.training_losses(output.float(), x0, x_t, t, noise)
        assert all(torch.equal(low[name], full[name]) for name in full)

    def test_kl_is_the_bound_times_steps(self, prediction: str, variance: str, shape: tuple[int, ...]) -> None:
        diffusion = self.build(prediction, variance, use_kl=True)
        x0, noise, t, x_t = batch(diffusion, shape)
        output = (0.9 * self.perfect_output(diffusion, x0, noise, t)).requires_grad_()
        losses = diffusion.training_losses(output, x0, x_t, t, noise)
        torch.testing.assert_close(losses["loss"], 100 * losses["vb"])
        losses["loss"].sum().backward()
        assert output.grad.isfinite().all()
        assert (output.grad[:, : shape[1]] != 0).any()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_hybrid_loss_sends_the_bound_to_the_variance_only(prediction: str) -> None:
    diffusion = noise_process(diffusion_steps=100, prediction=prediction)
    x0, noise, t, x_t = batch(diffusion, (4, 3, 4, 4))
    output = draw((4, 6, 4, 4), 3).requires_grad_()
    losses = diffusion.training_losses(output, x0, x_t, t, noise)
    (of_vb,) = torch.autograd.grad(losses["vb"].sum(), output, retain_graph=True)
    (of_mse,) = torch.autograd.grad(losses["mse"].sum(), output)
    assert (of_vb[:, :3] == 0).all()
    assert (of_vb[:, 3:] != 0).any()
    assert (of_mse[:, 3:] == 0).all()
    assert (of_mse[:, :3] != 0).any()


def test_rescaled_mse_scales_the_bound() -> None:
    plain = noise_process(timestep_respacing="50")
    rescaled = noise_process(timestep_respacing="50", rescale_learned_sigmas=True)
    x0, noise, t, x_t = batch(plain, (4, 3, 4, 4))
    output = draw((4, 6, 4, 4), 3)
    wanted, found = (d.training_losses(output, x0, x_t, t, noise) for d in (plain, rescaled))
    torch.testing.assert_close(found["vb"], wanted["vb"] * 50 / 1000)
    torch.testing.assert_close(found["loss"], wanted["mse"] + found["vb"])


def test_min_snr_weights_one_x0_alike_whatever_is_predicted() -> None:
    gamma = 5.0
    losses = {}
    for prediction in PREDICTIONS:
        diffusion = noise_process(
            diffusion_steps=100, learn_sigma=False, prediction=prediction, min_snr_gamma=gamma, noise_schedule="cosine"
        )
        x0, noise, t, x_t = batch(diffusion, (6, 3, 8, 8))
        t, x_t = t.clamp(max=90), diffusion.q_sample(x0, t.clamp(max=90), noise)
        wrong_x0 = x0 + 0.1 * draw(x0.shape, 4)
        output = diffusion.target(wrong_x0, diffusion.predict_eps(wrong_x0, x_t, t), t)
        losses[prediction] = diffusion.training_losses(output, x0, x_t, t, noise)["loss"]
    snr = torch.tensor(diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)).float()[t]
    assert (snr > gamma).any()
    assert (snr < gamma).any()
    wanted = snr.clamp(max=gamma) * (wrong_x0 - x0).square().mean((1, 2, 3))
    for prediction in PREDICTIONS:
        torch.testing.assert_close(losses[prediction], wanted, rtol=1e-3, atol=0)


def test_v_is_salimans_and_ho() -> None:
    diffusion = noise_process(diffusion_steps=100)
    x0, noise, t, x_t = batch(diffusion, (5, 3, 4, 4))
    abar = torch.tensor(diffusion.alphas_cumprod).float()[t].view(-1, 1, 1, 1)
    v = diffusion.target(x0, noise, t)
    torch.testing.assert_close(v, abar.sqrt() * noise - (1 - abar).sqrt() * x0)
    # (x0, noise) -> (x_t, v) is a rotation.
    torch.testing.assert_close(v**2 + x_t**2, x0**2 + noise**2)


def test_rescaled_timesteps_span_the_original_range() -> None:
    diffusion = noise_process(diffusion_steps=4000, timestep_respacing="ddim50", rescale_timesteps=True)
    model_t = diffusion.model_t(torch.tensor([0, 1, 49]))
    assert model_t.dtype == torch.float32
    assert model_t.tolist() == [0.0, 20.0, 980.0]
    kept = noise_process(diffusion_steps=4000, timestep_respacing="ddim50").model_t(torch.tensor([0, 1, 49]))
    assert kept.dtype == torch.int64
    assert kept.tolist() == [0, 80, 3920]


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_process_of_one_step(variance: str) -> None:
    diffusion = noise_process(timestep_respacing="1", prediction="x0", **VARIANCES[variance])
    x0, _noise, t, x_t = batch(diffusion, (2, 3, 4, 4))
    output = torch.cat([x0, x0], 1) if variance == "learned" else x0
    assert torch.isfinite(diffusion.model_variance(output, t)[1]).all()
    torch.testing.assert_close(diffusion.q_posterior(diffusion.predict_x0(output, x_t, t), x_t, t)[0], x0)


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_fixed_variances_are_those_of_ho(variance: str) -> None:
    diffusion = noise_process(diffusion_steps=100, **VARIANCES[variance])
    _, _, t, x_t = batch(diffusion, (5, 1, 2, 2))
    variances, log_variance = (v[:, 0, 0, 0] for v in diffusion.model_variance(x_t, t))
    wanted = diffusion.betas if variance == "fixed_large" else diffusion.posterior_variance
    found = variances.double().numpy()
    np.testing.assert_allclose(found[1:], wanted[t.numpy()][1:], rtol=1e-5)
    np.testing.assert_allclose(log_variance[1:].exp(), variances[1:], rtol=1e-5)
    # At step 0, for the decoder's likelihood, the log-variance of both is the posterior's of step 1.
    np.testing.assert_allclose(log_variance[0], np.log(diffusion.posterior_variance[1]), rtol=1e-5)
    assert found[0] == pytest.approx(diffusion.posterior_variance[1] if variance == "fixed_large" else 0)


def test_process_is_immutable() -> None:
    diffusion = noise_process(diffusion_steps=100)
    with pytest.raises(FrozenInstanceError):
        diffusion.prediction = "eps"
    for array in (diffusion.betas, diffusion.alphas_cumprod, diffusion.posterior_variance):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_training_after_sampling_under_inference_mode() -> None:
    diffusion = noise_process(diffusion_steps=100)
    x0, noise = draw((2, 3, 4, 4), 1).clamp(-1, 1), draw((2, 3, 4, 4), 2)
    t = torch.tensor([3, 70])
    with torch.inference_mode():
        diffusion.training_losses(draw((2, 6, 4, 4)), x0, diffusion.q_sample(x0, t, noise), t, noise)
    output = draw((2, 6, 4, 4)).requires_grad_()
    x_t = diffusion.q_sample(x0, t, noise)
    diffusion.training_losses(output, x0, x_t, t, noise)["loss"].sum().backward()
    assert output.grad.isfinite().all()


def test_gray_levels_have_all_the_probability() -> None:
    levels = (torch.arange(256) / 127.5 - 1).view(1, 1, 1, 256)
    for mean, scale in [(0.0, 0.3), (-0.9, 0.2), (1.0, 0.01), (2.0, 0.5)]:
        log_p = discretized_log_likelihood(
            levels, torch.full_like(levels, mean), torch.full_like(levels, math.log(scale))
        )
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_kl_agrees_with_torch_distributions() -> None:
    mean1, log1, mean2, log2 = draw((4, 50), 5).double()
    first, second = (torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in [(mean1, log1), (mean2, log2)])
    torch.testing.assert_close(normal_kl(mean1, log1, mean2, log2), torch.distributions.kl_divergence(first, second))


@pytest.mark.parametrize(
    "options", [{"prediction": "noise"}, {"noise_schedule": "sqrt"}, {"steps": 5, "timestep_respacing": "10"}]
)
def test_options_that_a_configuration_refuses(options: dict) -> None:
    with pytest.raises(AssertionError):
        noise_process(**options)
