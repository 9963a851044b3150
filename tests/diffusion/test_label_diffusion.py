"""Label diffusion: recorded numbers of the published code, the frequencies of vanishing, and sampling with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flat_options import noise_process, unet
from scipy import stats
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.diffusion.label_diffusion import (
    CLASSWISE,
    UNIFORM,
    LabelDiffusion,
    build_label_diffusion,
    draw_uniform,
    label_generators,
)
from guided_diffusion.diffusion.samplers import draw_noise, sample_ddim, sample_ddpm
from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip, dynamic_threshold
from guided_diffusion.models.unet import UNetModel

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("labels_*.npz"))
ETA = np.array([0.3, 1.0, 3.0, 40.0, 5000.0])
CLASSES = len(ETA)


class Golden:
    """A recorded case and the processes that its options describe."""

    def __init__(self, path: Path):
        self.recorded = dict(np.load(path))
        options = json.loads(path.with_suffix(".json").read_text())["options"]
        keys = ["diffusion_steps", "noise_schedule", "timestep_respacing", "learn_sigma"]
        self.diffusion = noise_process(prediction="eps", **{key: options[key] for key in keys})
        self.labels = build_label_diffusion(
            options["cond_opt"], self.diffusion, options["num_classes"], self.recorded["psiphi"]
        )

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.recorded[name])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_published_code_keeps_the_same_pixels(path: Path) -> None:
    case = Golden(path)
    np.testing.assert_array_equal(case.diffusion.timestep_map, case.recorded["timestep_map"])
    clean = SemanticMap(case.tensor("label"), case.labels.num_classes)
    found = case.labels.diffuse(clean, case.tensor("t"), case.tensor("uniform"))
    kept = case.tensor("kept").bool()
    assert torch.equal(found.label, torch.where(kept, clean.label, clean.num_classes))
    assert 0.2 < kept.float().mean() < 0.9


def test_published_reverse_steps_with_extrapolation_and_dynamic_threshold() -> None:
    (path,) = (path for path in GOLDEN if "ade20k" in path.stem)
    case = Golden(path)
    hooks = [Extrapolation(0.8), dynamic_threshold(0.95), clip]
    denoise = Denoiser(lambda x_t, t: case.tensor(f"model_output_{int(t[0])}"), case.diffusion, hooks)
    x = case.tensor("x")
    for index in (12, 11):
        t = torch.full((len(x),), index)
        x0, _ = denoise.with_variance(x, t)
        mean, _, _ = case.diffusion.q_posterior(x0, x, t)
        for name, value in (("pred_xstart", x0), ("mean", mean)):
            np.testing.assert_allclose(value, case.recorded[f"{name}_{index}"], rtol=1e-5, atol=1e-5)


def test_there_are_golden_cases() -> None:
    assert len(GOLDEN) == 3


def plain_probability(cond_opt: str, timestep: int, total: int) -> np.ndarray:
    """The definitions step by step: what is kept at all steps up to this one; the class-wise quotient."""
    if cond_opt == UNIFORM:
        kept = np.prod([1 - 1 / (total - step) for step in range(timestep + 1)])
        return np.full(CLASSES, 1 - kept)
    tau = timestep / total
    with np.errstate(invalid="ignore"):
        quotient = (ETA**tau - 1) / (ETA - 1)
    return np.where(ETA == 1, tau, np.minimum(tau, quotient))


@pytest.mark.parametrize("cond_opt", [UNIFORM, CLASSWISE])
@pytest.mark.parametrize("total", [1000, 250])
@pytest.mark.parametrize("respacing", ["", "ddim25", "7"])
def test_frequencies_are_those_of_the_original_timesteps(cond_opt: str, total: int, respacing: str) -> None:
    diffusion = noise_process(diffusion_steps=total, timestep_respacing=respacing)
    process = build_label_diffusion(cond_opt, diffusion, CLASSES, ETA)
    wanted = np.stack([plain_probability(cond_opt, timestep, total) for timestep in diffusion.timestep_map])
    np.testing.assert_allclose(process.null_probability, wanted, rtol=0, atol=1e-12)

    t = torch.linspace(0, diffusion.num_timesteps - 1, 6).long()
    clean = SemanticMap(torch.arange(CLASSES).repeat(6, 120, 24), CLASSES)
    draw = process.condition_sampler(label_generators(range(6)))
    nulled = sum((draw(clean, t).label == CLASSES).double() for _ in range(3))
    pixels = 3 * clean.label[0].numel() / CLASSES
    found = np.stack([nulled[:, clean.label[0] == label].sum(1).numpy() for label in range(CLASSES)], axis=1)
    share = wanted[t.numpy()]
    certain = (share < 1e-12) | (share > 1 - 1e-12)
    np.testing.assert_array_equal(found[certain], pixels * share[certain].round())
    found, share = found[~certain], share[~certain]
    statistic = ((found - pixels * share) ** 2 / (pixels * share * (1 - share))).sum()
    assert 0.001 < stats.chi2.sf(statistic, df=len(share)) < 0.999


def test_large_eta_stay_longer_and_all_end_alike() -> None:
    diffusion = noise_process(diffusion_steps=1000)
    probability = build_label_diffusion(CLASSWISE, diffusion, CLASSES, ETA).null_probability
    assert (np.diff(probability, axis=0) > 0).all()
    assert (np.diff(probability[1:], axis=1) <= 1e-15).all()
    assert (np.diff(probability[500, 1:]) < 0).all()
    np.testing.assert_allclose(probability[-1], 1, atol=0.01)
    assert (probability[0] == 0).all()


def process(steps: str = "8", **probability: float) -> tuple[GaussianDiffusion, LabelDiffusion]:
    diffusion = noise_process(diffusion_steps=100, timestep_respacing=steps, learn_sigma=False)
    if not probability:
        return diffusion, build_label_diffusion(CLASSWISE, diffusion, CLASSES, ETA)
    constant = np.full((diffusion.num_timesteps, CLASSES), probability["always"])
    return diffusion, LabelDiffusion(constant)


def maps(n: int, *, dtype: torch.dtype = torch.uint8, edges: bool = True) -> SemanticMap:
    generator = torch.Generator().manual_seed(5)
    label = torch.randint(0, CLASSES + 1, (n, 4, 4), generator=generator).to(dtype)
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    edge = torch.rand(n, 16, 16, generator=generator) < 0.2
    return SemanticMap(label, CLASSES, edge if edges else None)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_every_step_is_drawn_anew_from_the_clean_map(dtype: torch.dtype) -> None:
    _, labels = process()
    clean = maps(2, dtype=dtype)
    before = clean.label.clone()
    draw = labels.condition_sampler(label_generators([1, 2]))
    first, second = (draw(clean, torch.tensor([4, 4])) for _ in range(2))
    gone = [found.label == CLASSES for found in (first, second)]
    assert (gone[0] & ~gone[1]).any()
    assert (gone[1] & ~gone[0]).any()
    for found, null in zip((first, second), gone, strict=True):
        assert found.label.dtype == dtype
        assert torch.equal(found.label[~null], clean.label[~null])
        assert null[clean.label == CLASSES].all()
        assert torch.equal(found.edge, clean.edge)
    assert torch.equal(clean.label, before)


def test_draws_are_a_function_of_the_generator_alone() -> None:
    together = draw_uniform(label_generators([3, 4, 5]), (6, 8))
    assert together.shape == (3, 6, 8)
    assert torch.equal(draw_uniform(label_generators([5, 3]), (6, 8)), together[[2, 0]])
    noise = draw_uniform([torch.Generator().manual_seed(seed) for seed in (3, 4, 5)], (6, 8))
    assert not torch.equal(noise, together)


@pytest.fixture(scope="module")
def network() -> UNetModel:
    torch.manual_seed(0)
    model = unet(
        image_size=16, num_classes=CLASSES, num_channels=32, num_res_blocks=1, channel_mult=(1, 1), learn_sigma=False
    ).eval()
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return model


def sample(
    network: UNetModel, seeds: Sequence[int], condition: SemanticMap, labels: LabelDiffusion | None, scale: float = 1.5
) -> Tensor:
    diffusion, _ = process()
    own = [torch.Generator().manual_seed(seed) for seed in seeds]
    draw = None if labels is None else labels.condition_sampler(label_generators(seeds))
    guided = GuidedNetwork(network, diffusion, condition, scale=scale, condition_fn=draw)
    return sample_ddpm(Denoiser(guided, diffusion, [clip]), diffusion, draw_noise(own, (3, 16, 16)), generators=own)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_labels_that_never_vanish_give_the_same_image(network: UNetModel, scale: float) -> None:
    condition = maps(2, edges=False)
    plain = sample(network, [0, 1], condition, None, scale)
    assert torch.equal(sample(network, [0, 1], condition, process(always=0.0)[1], scale), plain)
    assert not torch.allclose(sample(network, [0, 1], condition, process()[1], scale), plain, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_labels_that_always_vanish_give_the_null_image(network: UNetModel, scale: float) -> None:
    condition = maps(2, edges=False)
    null = sample(network, [0, 1], condition, None, scale=0.0)
    found = sample(network, [0, 1], condition, process(always=1.0)[1], scale)
    torch.testing.assert_close(found, null, rtol=0, atol=1e-4)
    assert not torch.allclose(sample(network, [0, 1], condition, None, scale), null, atol=0.01)


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(network: UNetModel) -> None:
    condition, labels = maps(3, edges=False), process()[1]
    together = sample(network, [7, 8, 9], condition, labels)
    for image in range(3):
        alone = sample(network, [7 + image], condition[image : image + 1], labels)
        torch.testing.assert_close(alone[0], together[image], rtol=0, atol=1e-4)


def test_each_denoiser_extrapolates_from_its_own_steps() -> None:
    diffusion = noise_process(diffusion_steps=100, timestep_respacing="5", learn_sigma=False)
    seen: list[Tensor] = []

    def watched(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x0)
        return x0

    runs = []
    for seed in (0, 1, 0):
        own = [torch.Generator().manual_seed(seed)]
        denoise = Denoiser(lambda x_t, t: 0.3 * x_t + 0.1, diffusion, [watched, Extrapolation(0.8), watched, clip])
        runs.append(sample_ddim(denoise, diffusion, draw_noise(own, (1, 4, 4)), generators=own))
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[1])
    predicted, ahead = seen[:10:2], seen[1:10:2]
    assert torch.equal(ahead[0], predicted[0])
    for before, x0, found in zip(ahead, predicted[1:], ahead[1:], strict=False):
        torch.testing.assert_close(found, x0 + 0.8 * (x0 - before))


@pytest.mark.parametrize(
    ("cond_opt", "eta"),
    [
        ("discrete_one", None),
        (CLASSWISE, None),
        (CLASSWISE, np.ones(3)),
        (CLASSWISE, np.array([1, 2, 0, 3, 4])),
        (CLASSWISE, np.array([1, 2, 3, np.inf, 4])),
    ],
)
def test_processes_that_cannot_be(cond_opt: str, eta: np.ndarray | None) -> None:
    with pytest.raises(AssertionError):
        build_label_diffusion(cond_opt, noise_process(), CLASSES, eta)
