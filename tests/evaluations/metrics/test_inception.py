"""Inception features with random weights against torch-fidelity's own run, and bad files of them."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import random_inception
from torch import nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from evaluations.errors import EvaluationError
from evaluations.metrics import inception
from evaluations.metrics.base import FeatureExtractor
from evaluations.metrics.fidelity import frechet_distance, kernel_distance, precision_recall
from evaluations.metrics.inception import load_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def network(weights: Path) -> FeatureExtractor:
    return load_inception(str(weights), "cpu")


def picture_set(count: int, brightness: int, seed: int) -> np.ndarray:
    """Noise of various coarseness, uint8 [count, 32, 32, 3]."""
    rng = np.random.default_rng(seed)
    pictures = []
    for index in range(count):
        block = 2 ** (index % 4)
        coarse = rng.normal(brightness, 40, (32 // block, 32 // block, 3))
        pictures.append(coarse.repeat(block, axis=0).repeat(block, axis=1))
    return np.clip(pictures, 0, 255).astype(np.uint8)


class Pictures(Dataset):
    """As torch-fidelity takes them: uint8 [3, H, W] each."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.tensor(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_metrics_equal_torch_fidelity(weights: Path, network: FeatureExtractor) -> None:
    samples, real = picture_set(8, 130, 1), picture_set(10, 90, 2)
    expected = calculate_metrics(
        input1=Pictures(samples),
        input2=Pictures(real),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=8,
        kid_subsets=10,
        rng_seed=5,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # no further processes
        verbose=False,
    )
    of_samples, of_real = (network.compute(images, "").astype(np.float64) for images in (samples, real))
    assert of_samples.std(axis=0).mean() > 0.01
    kid = kernel_distance(of_samples, of_real, subsets=10, seed=5)
    precision, recall = precision_recall(of_samples, of_real)
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert frechet_distance(of_samples, of_real) == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert kid.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert kid.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3)
    assert (precision, recall) == pytest.approx((expected["precision"], expected["recall"]))


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(network: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = picture_set(3, 128, 3)[:, :20]
    together = network.compute(images, "")
    monkeypatch.setattr(inception, "BATCH", 2)
    features = network.compute(images, "")
    assert features.shape == (3, 2048)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, together, rtol=1e-3, atol=1e-4)
    assert network.compute(images[:0], "").shape == (0, 2048)


def test_weights_are_told(weights: Path, network: FeatureExtractor) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    for part in ("InceptionV3", "299 x 299", "random.pth", digest):
        assert part in network.description


def test_loading_leaves_the_global_generator_alone(weights: Path) -> None:
    before = torch.get_rng_state()
    load_inception(str(weights), "cpu")
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------------------------------- bad files


class Attack:
    """What a hostile file holds: unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def hostile(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2), "rest": Attack(path.parent / "attacked")}, path)


def hostile_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Attack(path.parent / "attacked")))


BAD_FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "could not be read"),
    "text": (lambda path: path.write_text("<html>404</html>"), "could not be read"),
    "hostile": (hostile, "could not be read"),
    "hostile pickle": (hostile_pickle, "could not be read"),
    "number": (lambda path: torch.save(3, path), "state dictionary"),
    "nothing": (lambda path: torch.save({}, path), "state dictionary"),
    "nested": (lambda path: torch.save({"a": {"fc.weight": torch.zeros(2)}}, path), "state dictionary"),
    "foreign": (lambda path: torch.save(nn.Linear(2, 3).state_dict(), path), "InceptionV3"),
    "other shapes": (
        lambda path: torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(8, 3, 3, 3)}, path),
        "InceptionV3",
    ),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:1_000_000]), "could not be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    make, found = BAD_FILES[name]
    if name == "truncated":
        path.write_bytes(weights.read_bytes())
    make(path)
    with pytest.raises(EvaluationError) as caught:
        load_inception(str(path), "cpu")
    assert (caught.value.key, caught.value.path) == ("inception_weights", str(path))
    assert found in caught.value.found
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400
    assert not (tmp_path / "attacked").exists()


@pytest.mark.slow
def test_damaged_numbers(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["Mixed_7c.branch1x1.conv.weight"][0] = float("nan")
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    network = load_inception(str(path), "cpu")
    with pytest.raises(EvaluationError) as caught:
        network.compute(picture_set(2, 128, 4), "")
    assert (caught.value.key, caught.value.path) == ("inception_weights", str(path))
