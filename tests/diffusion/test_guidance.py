"""Guidance with a tiny network that has the three parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from flat_options import noise_process
from torch import Tensor, nn

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedNetwork, guided_steps
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise, sample_ddpm
from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip
from guided_diffusion.runtime.errors import ConfigError

N, CLASSES, SIZE = 3, 2, (6, 8)


class ScaleShifts(list[tuple[Tensor, Tensor]]):
    """gamma and beta of each layer."""

    @staticmethod
    def cat(branches: Sequence[ScaleShifts]) -> ScaleShifts:
        layers = zip(*branches, strict=True)
        return ScaleShifts(tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in layers)

    def expand(self, n: int) -> ScaleShifts:
        return ScaleShifts(tuple(part.expand(n, -1, -1, -1) for part in layer) for layer in self)


class TinyNetwork(nn.Module):
    """One convolution in, two modulated layers, one convolution out; counts how often its parts run."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.inside = nn.Conv2d(channels, 4, 3, padding=1)
        self.condition = nn.ModuleList(nn.Conv2d(CLASSES, 8, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(1, 4)
        self.outside = nn.Conv2d(4, out_channels, 3, padding=1)
        self.runs: dict[str, list[int]] = {"encode": [], "modulate": [], "decode": []}
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        self.runs["encode"].append(len(x))
        return [self.inside(x), x.mean(1, keepdim=True)], self.time(t.float().view(-1, 1) / 100)

    def modulate(self, condition: SemanticMap) -> ScaleShifts:
        self.runs["modulate"].append(len(condition))
        return ScaleShifts(layer(condition.one_hot()).chunk(2, dim=1) for layer in self.condition)

    def decode(self, skips: list[Tensor], emb: Tensor, modulations: ScaleShifts) -> Tensor:
        self.runs["decode"].append(len(emb))
        h = skips[0] + emb[:, :, None, None] + skips[1]
        for gamma, beta in modulations:
            h = torch.tanh(h * (1 + gamma) + beta)
        return self.outside(h)

    def forward(self, x: Tensor, t: Tensor, condition: SemanticMap) -> Tensor:
        return self.decode(*self.encode(x, t), self.modulate(condition))


@pytest.fixture
def condition() -> SemanticMap:
    generator = torch.Generator().manual_seed(3)
    return SemanticMap(torch.randint(0, CLASSES + 1, (N, *SIZE), generator=generator), CLASSES)


def process(**options) -> GaussianDiffusion:
    return noise_process(diffusion_steps=100, timestep_respacing="25", **options)


def inputs(channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(N, channels, *SIZE, generator=generator), torch.tensor([0, 11, 24])


def branches(model: TinyNetwork, diffusion: GaussianDiffusion, condition: SemanticMap) -> tuple[Tensor, Tensor]:
    x, t = inputs(model.inside.in_channels)
    model_t = diffusion.model_t(t)
    return model(x, model_t, condition), model(x, model_t, condition.null())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learned", [True, False])
@torch.no_grad()
def test_formula_on_the_mean_channels_only(condition: SemanticMap, channels: int, learned: bool) -> None:
    diffusion = process(learn_sigma=learned)
    model = TinyNetwork(channels, channels * (1 + learned))
    cond, null = branches(model, diffusion, condition)
    output = GuidedNetwork(model, diffusion, condition, scale=1.5)(*inputs(channels))
    wanted = (null + 1.5 * (cond - null))[:, :channels]
    torch.testing.assert_close(output[:, :channels], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output[:, channels:], cond[:, channels:], rtol=1e-5, atol=1e-6)
    assert output.shape == cond.shape


@pytest.mark.parametrize(("scale", "branch"), [(1.0, 0), (0.0, 1)])
@torch.no_grad()
def test_scale_of_one_branch_runs_one_branch(condition: SemanticMap, scale: float, branch: int) -> None:
    model, diffusion = TinyNetwork(3, 6), process()
    wanted = branches(model, diffusion, condition)[branch]
    model.runs = {part: [] for part in model.runs}
    network = GuidedNetwork(model, diffusion, condition, scale=scale)
    torch.testing.assert_close(network(*inputs()), wanted)
    assert model.runs == {"encode": [N], "modulate": [N if scale else 1], "decode": [N]}


@torch.no_grad()
def test_both_branches_share_one_encode_and_one_modulation(condition: SemanticMap) -> None:
    model = TinyNetwork(3, 6)
    network = GuidedNetwork(model, process(), condition, scale=2.0)
    for _ in range(3):
        network(*inputs())
    assert model.runs == {"encode": [N] * 3, "modulate": [1, N], "decode": [2 * N] * 3}


@torch.no_grad()
def test_maps_that_change_keep_the_null_branch(condition: SemanticMap) -> None:
    model, diffusion = TinyNetwork(3, 6), process()
    network = GuidedNetwork(model, diffusion, condition, scale=2.0)
    x, t = inputs()
    before = network(x, t)
    for maps in (condition[torch.tensor([2, 0, 1])], condition[1:]):
        model.runs["modulate"].clear()
        changed = network.with_condition(maps)
        assert model.runs["modulate"] == [len(maps)]
        n = len(maps)
        wanted = GuidedNetwork(model, diffusion, maps, scale=2.0)(x[:n], t[:n])
        torch.testing.assert_close(changed(x[:n], t[:n]), wanted)
        assert not torch.allclose(changed(x[:n], t[:n]), before[:n])
    assert torch.equal(network(x, t), before)


class TestMapsThatChange:
    """`condition_fn`, by label processes that are the same at every step."""

    def network(self, model: TinyNetwork, condition: SemanticMap, null_probability: float, **options) -> GuidedNetwork:
        diffusion = process()
        labels = LabelDiffusion(np.full((diffusion.num_timesteps, CLASSES), null_probability))
        draw = labels.condition_sampler([torch.Generator().manual_seed(i) for i in range(len(condition))])
        return GuidedNetwork(model, diffusion, condition, condition_fn=draw, **options)

    @pytest.mark.parametrize("scale", [0.0, 1.0, 1.5])
    @torch.no_grad()
    def test_nothing_vanishes(self, condition: SemanticMap, scale: float) -> None:
        model = TinyNetwork(3, 6)
        wanted = GuidedNetwork(model, process(), condition, scale=scale)(*inputs())
        assert torch.equal(self.network(model, condition, 0.0, scale=scale)(*inputs()), wanted)

    @pytest.mark.parametrize("scale", [1.0, 1.5])
    @torch.no_grad()
    def test_everything_vanishes(self, condition: SemanticMap, scale: float) -> None:
        model = TinyNetwork(3, 6)
        _, null = branches(model, process(), condition)
        torch.testing.assert_close(self.network(model, condition, 1.0, scale=scale)(*inputs()), null)

    @torch.no_grad()
    def test_every_call_has_its_own_map_and_the_null_branch_is_kept(self, condition: SemanticMap) -> None:
        model = TinyNetwork(3, 6)
        network = self.network(model, condition, 0.5, scale=2.0)
        first, second = (network(*inputs()) for _ in range(2))
        assert not torch.allclose(first, second)
        assert model.runs == {"encode": [N] * 2, "modulate": [1, N, N], "decode": [2 * N] * 2}
        _, null = branches(model, process(), condition)
        maps = SemanticMap(condition.label, CLASSES)
        again = network.with_condition(maps, lambda clean, t: clean.null())(*inputs())
        torch.testing.assert_close(again, null)

    @torch.no_grad()
    def test_the_null_branch_alone_asks_for_no_maps(self, condition: SemanticMap) -> None:
        model = TinyNetwork(3, 6)
        self.network(model, condition, 0.5, scale=0.0)(*inputs())
        assert model.runs["modulate"] == [1]

    @torch.no_grad()
    def test_with_an_interval(self, condition: SemanticMap) -> None:
        model, (x, _) = TinyNetwork(3, 6), inputs()
        plain = GuidedNetwork(model, process(), condition, scale=1.5, interval=(0.5, 5.0))
        found = self.network(model, condition, 0.0, scale=1.5, interval=(0.5, 5.0))
        for index in (0, 11, 24):
            t = torch.full((N,), index)
            assert torch.equal(found(x, t), plain(x, t))


class TestInterval:
    """The noise levels of `process` are 0.032 at index 0, 2.8 at 11, 221 at 24."""

    @pytest.mark.parametrize("learned", [True, False])
    @torch.no_grad()
    def test_outside_only_the_conditional_branch_runs(self, condition: SemanticMap, learned: bool) -> None:
        diffusion = process(learn_sigma=learned)
        model = TinyNetwork(3, 3 * (1 + learned))
        x, _ = inputs()
        outputs = {}
        for name, options in {
            "guided": {"scale": 1.5},
            "conditional": {"scale": 1.0},
            "interval": {"scale": 1.5, "interval": (0.5, 5.0)},
        }.items():
            network = GuidedNetwork(model, diffusion, condition, **options)
            model.runs["decode"].clear()
            outputs[name] = [network(x, torch.full((N,), index)) for index in (0, 11, 24)]
        assert model.runs["decode"] == [N, 2 * N, N]
        for index, same in enumerate(("conditional", "guided", "conditional")):
            torch.testing.assert_close(outputs["interval"][index], outputs[same][index])
        assert not torch.allclose(outputs["guided"][1], outputs["conditional"][1])

    @torch.no_grad()
    def test_the_null_branch_alone_inside(self, condition: SemanticMap) -> None:
        model, diffusion = TinyNetwork(3, 6), process()
        cond, null = branches(model, diffusion, condition)
        model.runs["modulate"].clear()
        network = GuidedNetwork(model, diffusion, condition, scale=0.0, interval=(0.5, 5.0))
        x, t = inputs()
        for image, wanted in ((0, cond), (1, null), (2, cond)):
            found = network(x, torch.full((N,), int(t[image])))
            torch.testing.assert_close(found[image], wanted[image], rtol=1e-5, atol=1e-6)
        assert model.runs["modulate"] == [1, N]

    def test_ends(self) -> None:
        diffusion = process()
        sigma = ((1 - diffusion.alphas_cumprod) / diffusion.alphas_cumprod) ** 0.5
        guided = guided_steps(diffusion, (sigma[3], sigma[20]))
        assert guided.tolist() == [3 < index <= 20 for index in range(25)]
        assert guided_steps(diffusion, None).all()
        assert guided_steps(diffusion, (0, 1e9)).all()

    @pytest.mark.parametrize("interval", [(300.0, 400.0), (0.0, 0.01)])
    def test_intervals_without_a_step(self, interval: tuple[float, ...]) -> None:
        with pytest.raises(ConfigError, match=r"^guidance_interval[^\n]*$"):
            guided_steps(process(), interval)


@torch.no_grad()
def test_guidance_in_one_space_is_guidance_in_all(condition: SemanticMap) -> None:
    """Take one network's two answers, guide them as eps, as x0 and as v: the same x0 comes out."""
    x, t = inputs()
    pair = branches(TinyNetwork(3, 3), process(learn_sigma=False), condition)
    reference = process(learn_sigma=False, prediction="v")
    x0s = [reference.predict_x0(answer, x, t) for answer in pair]
    found = []
    for prediction in ("eps", "x0", "v"):
        diffusion = process(learn_sigma=False, prediction=prediction)
        cond, null = (diffusion.target(x0, diffusion.predict_eps(x0, x, t), t) for x0 in x0s)
        found.append(diffusion.predict_x0(null + 1.5 * (cond - null), x, t))
    for x0 in found:
        torch.testing.assert_close(x0, x0s[1] + 1.5 * (x0s[0] - x0s[1]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_autocast_runs_the_network_low_and_answers_in_float32(condition: SemanticMap) -> None:
    model, diffusion = TinyNetwork(3, 6), process()
    full = GuidedNetwork(model, diffusion, condition, scale=1.5)(*inputs())
    low = GuidedNetwork(model, diffusion, condition, scale=1.5, amp_dtype=torch.bfloat16)(*inputs())
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("learned", [True, False])
def test_indices_stay_on_the_cpu_wherever_the_images_are(condition: SemanticMap, name: str, learned: bool) -> None:
    """On the meta device nothing can be read back, and tensors of different devices do not mix."""
    diffusion = process(learn_sigma=learned)
    model, maps = TinyNetwork(3, 3 * (1 + learned)).to("meta"), condition.to("meta")
    own = [torch.Generator().manual_seed(index) for index in range(N)]
    labels = LabelDiffusion(np.full((diffusion.num_timesteps, CLASSES), 0.5))
    network = GuidedNetwork(
        model, diffusion, maps, scale=1.5, interval=(0.5, 5.0), condition_fn=labels.condition_sampler(own)
    )
    denoise = Denoiser(network, diffusion, [Extrapolation(0.8), clip])
    x = SAMPLERS[name](denoise, diffusion, draw_noise(own, (3, *SIZE), "meta"), generators=own)
    assert (x.shape, x.device.type) == ((N, 3, *SIZE), "meta")
    assert set(model.runs["decode"]) == {N, 2 * N}


def test_guided_sampling_does_not_depend_on_the_batch(condition: SemanticMap) -> None:
    model, diffusion = TinyNetwork(3, 6), process()

    def sample(indices: list[int]) -> Tensor:
        own = [torch.Generator().manual_seed(index) for index in indices]
        network = GuidedNetwork(model, diffusion, condition[torch.tensor(indices)], scale=1.5)
        return sample_ddpm(Denoiser(network, diffusion, [clip]), diffusion, draw_noise(own, (3, *SIZE)), generators=own)

    together = sample([0, 1, 2])
    assert not together.requires_grad
    for index in range(N):
        torch.testing.assert_close(sample([index])[0], together[index], rtol=0, atol=1e-4)
