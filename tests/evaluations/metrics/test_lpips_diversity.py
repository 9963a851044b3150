"""LPIPS diversity against the library called pair by pair, with random backbones."""

from __future__ import annotations

import hashlib
import warnings
from itertools import combinations
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from torchvision.models import alexnet, resnet18, squeezenet1_1, vgg16

from evaluations.errors import EvaluationError
from evaluations.metrics import lpips_diversity
from evaluations.metrics.lpips_diversity import PerceptualDistance, load_lpips, pairwise_diversity


def features_of(builder) -> dict[str, torch.Tensor]:
    """The state_dict of a random backbone without its classifier, the bulk of it."""
    # VGG's own first weights take a second for the classifier alone.
    with torch.device("meta"):
        features = builder(weights=None).features
    features = features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for value in features.parameters():
        fan_in = value[0].numel()
        value.data = torch.randn(value.shape, generator=generator) * (0.1 if value.ndim == 1 else (2 / fan_in) ** 0.5)
    return {f"features.{key}": value for key, value in features.state_dict().items()}


BUILDERS = {"alex": alexnet, "vgg": vgg16, "squeeze": squeezenet1_1}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    for net, builder in BUILDERS.items():
        torch.save(features_of(builder), folder / f"{net}.pth")
    return {net: folder / f"{net}.pth" for net in BUILDERS}


@pytest.fixture(scope="module")
def model(files: dict[str, Path]) -> PerceptualDistance:
    return load_lpips("alex", str(files["alex"]), "cpu")


def samples(count: int, seed: int, size: tuple[int, int] = (40, 33), noise: float = 60) -> np.ndarray:
    """`count` noisy versions of one picture, uint8 [count, *size, 3]."""
    rng = np.random.default_rng(seed)
    picture = rng.uniform(60, 190, (*size, 3))
    return np.clip(picture + rng.normal(0, noise, (count, *size, 3)), 0, 255).astype(np.uint8)


def by_the_library(net: str, file: Path, groups: list[np.ndarray]) -> list[list[float]]:
    """LPIPS of all pairs of each group, one call for a pair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = torch.load(file, weights_only=True)
    for name, part in metric.net.named_parameters():
        part.data = state["features." + name.partition(".")[2]]

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        with torch.no_grad():
            return metric(lpips.im2tensor(first), lpips.im2tensor(second)).item()

    return [[distance(first, second) for first, second in combinations(group, 2)] for group in groups]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_equals_the_library_pair_by_pair(net: str, files: dict[str, Path]) -> None:
    groups = [samples(4, 1), samples(3, 2, (32, 48), noise=20), samples(2, 3)]
    expected = [np.mean(pairs) for pairs in by_the_library(net, files[net], groups)]
    found = pairwise_diversity(load_lpips(net, str(files[net]), "cpu"), iter(groups))
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-4)
    assert found.std == pytest.approx(np.std(expected, ddof=1), rel=1e-3)
    assert (found.masks, found.samples_per_mask) == (3, 2)


def test_each_mask_counts_the_same(model: PerceptualDistance) -> None:
    """Not each pair: 10 pairs of one mask beside 1 of the other."""
    first, second = samples(5, 4), samples(2, 5, noise=5)
    alone = [pairwise_diversity(model, [group]) for group in (first, second)]
    assert alone[0].std == 0
    assert alone[0].mean > 1.5 * alone[1].mean
    both = pairwise_diversity(model, [first, second])
    assert both.mean == pytest.approx((alone[0].mean + alone[1].mean) / 2)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_batches_do_not_matter(batch_size: int, model: PerceptualDistance, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [samples(4, 6)]
    monkeypatch.setattr(lpips_diversity, "BATCH", 3)
    expected = pairwise_diversity(model, groups).mean
    monkeypatch.setattr(lpips_diversity, "BATCH", batch_size)
    assert pairwise_diversity(model, groups).mean == pytest.approx(expected, rel=1e-5)


def test_equal_images_have_no_diversity(model: PerceptualDistance) -> None:
    assert pairwise_diversity(model, [samples(1, 7).repeat(4, axis=0)]).mean == 0


def test_more_noise_is_more_diverse(model: PerceptualDistance) -> None:
    found = [pairwise_diversity(model, [samples(4, 8, noise=noise)]).mean for noise in (1, 5, 20, 60)]
    assert 0 < found[0] < found[1] < found[2] < found[3]


@pytest.mark.parametrize(
    ("net", "smallest"), [("alex", 31), ("squeeze", 17), pytest.param("vgg", 16, marks=pytest.mark.slow)]
)
def test_smallest_images(net: str, smallest: int, files: dict[str, Path]) -> None:
    model = load_lpips(net, str(files[net]), "cpu")
    assert pairwise_diversity(model, [samples(2, 9, (smallest, smallest + 3))]).mean > 0
    with pytest.raises(EvaluationError) as error:
        pairwise_diversity(model, [samples(2, 9, (smallest + 2, smallest - 1))])
    assert error.value.key == "lpips_net"
    assert f"{smallest + 2} x {smallest - 1}" in error.value.found


def test_loading_is_silent_and_told(files: dict[str, Path], capfd: pytest.CaptureFixture) -> None:
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_lpips("alex", str(files["alex"]), "cpu")
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), before)
    digest = hashlib.sha256(files["alex"].read_bytes()).hexdigest()[:16]
    assert model.weights.digest == digest
    for part in ("LPIPS", "AlexNet", "alex.pth", digest):
        assert part in model.description


def test_the_classifier_is_not_used(model: PerceptualDistance, files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(files["alex"], weights_only=True)
    torch.save({**state, "classifier.6.weight": torch.zeros(10, 4)}, tmp_path / "whole.pth")
    images = samples(2, 10)
    whole = load_lpips("alex", str(tmp_path / "whole.pth"), "cpu")
    assert torch.equal(whole.embed(images), model.embed(images))


def lacking(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != "features.8.bias"}


BAD_FILES = {
    "missing": (None, "no such file"),
    "damaged": (b"PK\x03\x04 half a file", "could not be read"),
    "of another kind": (lambda state: resnet18(weights=None).state_dict(), "AlexNet"),
    "lacking one": (lacking, "features.8.bias"),
    "of other shape": (
        lambda state: {**state, "features.0.weight": torch.zeros(64, 1, 11, 11)},
        "features.0.weight",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    content, found = BAD_FILES[name]
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content(torch.load(files["alex"], weights_only=True)), path)
    with pytest.raises(EvaluationError) as caught:
        load_lpips("alex", str(path), "cpu")
    assert (caught.value.key, caught.value.path) == ("lpips_weights", str(path))
    assert found in caught.value.found
    assert "\n" not in str(caught.value)


def test_weights_of_another_backbone(files: dict[str, Path]) -> None:
    with pytest.raises(EvaluationError) as caught:
        load_lpips("alex", str(files["vgg"]), "cpu")
    assert caught.value.path == str(files["vgg"])
    assert "AlexNet" in caught.value.found


def test_damaged_numbers(files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(files["alex"], weights_only=True)
    state["features.3.weight"][0] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    model = load_lpips("alex", str(tmp_path / "weights.pth"), "cpu")
    with pytest.raises(EvaluationError) as caught:
        model.embed(samples(2, 11))
    assert caught.value.path == str(tmp_path / "weights.pth")


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet-owt-7be5be79"), ("vgg", "vgg16-397923af")])
def test_without_a_network(net: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nobody listens there
    with pytest.raises(EvaluationError) as caught:
        load_lpips(net, "auto", "cpu")
    assert caught.value.key == "lpips_weights"
    assert caught.value.path.startswith("https")
    assert name in caught.value.path
    assert "\n" not in str(caught.value)
