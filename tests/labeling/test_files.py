"""Files of classifiers: what is written is read again, and what is not a classifier is refused in one line."""

from __future__ import annotations

import pytest
import torch
from published_classifiers import save_published

from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.files import PixelClassifier, load_classifier, load_published
from guided_diffusion.runtime.checkpoint import load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError


def same(first: PixelEnsemble, second: PixelEnsemble) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, found) for (name, value), (other, found) in pairs)


@pytest.fixture
def ensemble():
    made = PixelEnsemble(3, 10, 34).train()
    made(torch.randn(3, 20, 10))  # so that the statistics are not those of the beginning
    return made.eval()


def test_own_files(ensemble, tmp_path):
    described = {"features": {"steps": [50, 150]}, "encoding": {"names": ["a", "b"]}, "training": {"seed": 3}}
    PixelClassifier(ensemble, "majority", **described).save(tmp_path / "classifier.pt")
    found = load_classifier(tmp_path / "classifier.pt")
    assert same(found.ensemble, ensemble)
    assert not found.ensemble.training
    assert (found.vote, found.features, found.encoding, found.training) == ("majority", *described.values())
    with pytest.raises(CheckpointError):  # it is no network
        load_checkpoint(tmp_path / "classifier.pt")


def test_published_files_are_read(ensemble, golden, tmp_path):
    paths = save_published(tmp_path, ensemble)
    assert [path.name for path in paths] == ["model_0.pth", "model_1.pth", "model_2.pth"]
    content = torch.load(paths[0], weights_only=True)
    recorded = golden("classifier")[0]["cases"]["classes34"]["state_dict"]
    assert list(content) == ["model_state_dict"]
    assert list(content["model_state_dict"]) == [f"module.{name}" for name in recorded]
    assert same(load_published(tmp_path), ensemble)
    found = load_classifier(tmp_path)
    assert same(found.ensemble, ensemble)
    assert found.vote == "majority"


def test_published_widths(tmp_path):
    for classes, hidden in ((29, (128, 32)), (30, (256, 128))):
        save_published(tmp_path, PixelEnsemble(1, 4, classes))
        assert load_published(tmp_path).hidden == hidden


def test_ten_members_are_in_the_order_of_their_numbers(tmp_path):
    ensemble = PixelEnsemble(11, 3, 2)
    save_published(tmp_path, ensemble)
    assert same(load_published(tmp_path), ensemble)


def test_a_gap_is_named(ensemble, tmp_path):
    save_published(tmp_path, ensemble)
    (tmp_path / "model_1.pth").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_published(tmp_path)
    assert caught.value.path == str(tmp_path)
    assert "[0, 2]" in caught.value.found


def test_files_of_something_else_are_refused(ensemble, tmp_path):
    path = tmp_path / "classifier.pt"
    for content in ({"weights": torch.zeros(2)}, {"format": "isdm"}, [1, 2], {"format": "isdm_pixel_classifier"}):
        torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            load_classifier(path)
        assert caught.value.path == str(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError):
        load_classifier(path)
    with pytest.raises(CheckpointError):
        load_classifier(tmp_path / "missing.pt")


@pytest.mark.parametrize("change", ["missing", "more", "shape", "other"])
def test_published_files_that_do_not_fit_are_refused(ensemble, tmp_path, change):
    save_published(tmp_path, ensemble)
    path = tmp_path / "model_1.pth"
    weights = torch.load(path, weights_only=True)["model_state_dict"]
    if change == "missing":
        del weights["module.layers.5.bias"]
    elif change == "more":
        weights["module.layers.8.weight"] = torch.zeros(2)
    elif change == "shape":
        weights["module.layers.0.weight"] = torch.zeros(256, 11)
    torch.save({"model_state_dict": weights} if change != "other" else weights, path)
    with pytest.raises(CheckpointError) as caught:
        load_published(tmp_path)
    assert caught.value.path == str(path if change == "other" else tmp_path)


def test_the_file_is_free_of_code(ensemble, tmp_path):
    save_published(tmp_path, ensemble)
    torch.save({"model_state_dict": ensemble}, tmp_path / "model_0.pth")  # a pickled module
    with pytest.raises(CheckpointError) as caught:
        load_published(tmp_path)
    assert caught.value.path == str(tmp_path / "model_0.pth")


def test_a_classifier_of_other_features_is_refused(ensemble, tmp_path):
    path = tmp_path / "classifier.pt"
    own = PixelClassifier(ensemble, features={"checkpoint": "ab", "timesteps": [50]})
    own.refuse_other_features(path, {"checkpoint": "ab", "timesteps": [50]}, 10)
    PixelClassifier(ensemble).refuse_other_features(path, {"checkpoint": "ab"}, 10)
    for features, dim, named in (
        ({"checkpoint": "cd", "timesteps": [50]}, 10, "checkpoint"),
        ({"checkpoint": "ab"}, 10, "feature_steps"),
        ({"checkpoint": "ab", "timesteps": [50], "joined": []}, 10, "feature_rgb False, but here it is True"),
        ({"checkpoint": "ab", "timesteps": [50]}, 12, "12"),
    ):
        with pytest.raises(CheckpointError) as caught:
            own.refuse_other_features(path, features, dim)
        assert caught.value.path == str(path)
        assert named in caught.value.found
