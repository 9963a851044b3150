"""Segmenters from files: weights of known models, TorchScript and exported programs, and what their outputs mean."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from painted import NearestColor, exported, painted, scripted
from torch import Tensor, nn

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import scores
from evaluations.segmentation.external import ExternalSegmenter, SegmenterFile, read_segmenter
from evaluations.segmentation.label_table import NO_CLASS
from evaluations.segmentation.models import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, build_segmenter, to_input
from evaluations.segmentation.training import predict
from evaluations.sets import ImageSet

CPU = torch.device("cpu")
ENCODERS = {"dpt": "tu-vit_tiny_patch16_224", "segformer": "mit_b0"}


def read(path: Path, model: str = "", *, size: tuple[int, int] = (32, 32), form="unit") -> SegmenterFile:
    return read_segmenter(str(path), model, size=size, form=form, device=CPU)


def miou(file: SegmenterFile, classes: tuple[int, ...], images: ImageSet) -> float:
    return scores(ExternalSegmenter(file, classes, images.num_classes).counts(images, 2, CPU)).miou


@pytest.fixture(scope="module")
def nearest(tmp_path_factory) -> SegmenterFile:
    return read(scripted(tmp_path_factory.mktemp("programs") / "nearest.pt", NearestColor()))


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["fpn", "segformer"])
def test_weights_of_smp_give_what_the_model_gives(architecture, tmp_path):
    encoder = ENCODERS.get(architecture, "resnet18")
    model = build_segmenter(architecture, encoder, num_classes=5, seed=3).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    file = read(tmp_path / "weights.pth", f"smp/{architecture}/{encoder}", size=(64, 64), form="imagenet")
    assert (file.outputs, file.encoder_of is not None) == (5, True)
    images = to_input(torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(file.network(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_weights_of_every_architecture_are_of_its_logits(architecture):
    model = build_segmenter(architecture, ENCODERS.get(architecture, "resnet18"), num_classes=7, seed=0)
    assert next(reversed(model.state_dict().values())).shape == (7,)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", ["state_dict", "model"])
def test_weights_as_trainers_wrap_them(wrapped, tmp_path):
    model = build_segmenter("fpn", "resnet18", num_classes=3, seed=0)
    prefix = {"state_dict": "model.", "model": "module."}[wrapped]
    torch.save({wrapped: {f"{prefix}{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pt")
    assert read(tmp_path / "w.pt", "smp/fpn/resnet18").outputs == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"), [("lraspp_mobilenet_v3_large", {}), ("deeplabv3_mobilenet_v3_large", {"aux_loss": True})]
)
def test_weights_of_torchvision(name, more, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **more).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    file = read(tmp_path / "weights.pt", f"torchvision/{name}", size=(40, 48))
    assert (file.outputs, file.encoder_of) == (4, None)
    images = torch.rand(1, 3, 40, 48)
    with torch.inference_mode():
        torch.testing.assert_close(file.network(images), model(images)["out"])


class InMapping(nn.Module):
    """Logits as torchvision's models give them."""

    def __init__(self):
        super().__init__()
        self.inner = NearestColor()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.inner(images)
        return {"out": logits, "aux": -logits}


@pytest.mark.parametrize("network", [NearestColor(), InMapping()], ids=["tensor", "mapping"])
@pytest.mark.parametrize("kind", ["scripted", "exported for one image", "exported for any batch"])
def test_programs(network, kind, tmp_path):
    if kind == "scripted":
        path = scripted(tmp_path / "program.pt", network)
    elif kind == "exported for one image":
        path = exported(tmp_path / "program.pt2", network, torch.zeros(1, 3, 32, 32))
    else:
        sizes = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(network.eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=sizes)
        torch.export.save(program, path := tmp_path / "program.pt2")
    file = read(path)
    assert (file.outputs, file.model, len(file.digest)) == (4, "", 16)
    assert miou(file, (0, 1, 2, 3), painted(3)) == 1


@pytest.mark.slow
def test_reading_leaves_the_random_state_alone(tmp_path):
    torch.save(build_segmenter("fpn", "resnet18", num_classes=3, seed=0).state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    read(tmp_path / "weights.pt", "smp/fpn/resnet18")
    assert torch.equal(torch.rand(1), expected)


# ----------------------------------------------------------------------------------------------------- labels


def test_a_shifted_table_gives_shifted_predictions(nearest):
    images = painted()
    shifted = ExternalSegmenter(nearest, (1, 2, 3, 0), 4)
    found = predict(shifted, images.images, 2, CPU, "unit")
    assert np.array_equal(found, (images.labels + 1) % 4)
    assert miou(nearest, (1, 2, 3, 0), images) == 0
    moved = ImageSet(images.images, (images.labels + 1) % 4, images.names, 4)
    assert miou(nearest, (1, 2, 3, 0), moved) == 1


def test_classes_without_an_output_are_left_out_of_the_scores(nearest):
    images = painted()
    model = ExternalSegmenter(nearest, (0, 1, NO_CLASS, NO_CLASS), 4)
    assert model.left_out == (2, 3)
    found = scores(model.counts(images, 2, CPU))
    assert found.present.tolist() == [True, True, False, False]
    assert (found.miou, found.pixel_accuracy) == (1, 1)


def test_what_stands_for_no_class_is_wrong_where_there_is_one(nearest):
    images = painted()
    model = ExternalSegmenter(nearest, (0, 1, 2, NO_CLASS), 4)
    # Class 3 shows in images that call it 2: half of class 2 is predicted to be none of the classes.
    labels = np.where(images.labels == 3, 2, images.labels)
    found = scores(model.counts(ImageSet(images.images, labels, images.names, 4), 2, CPU))
    assert found.class_iou[:3].tolist() == [1, 1, 0.5]
    assert found.class_precision[2] == 1  # a false positive of no class
    assert found.pixel_accuracy == 0.75


def test_of_several_outputs_of_a_class_the_largest_counts(tmp_path):
    # Red and yellow are one class; neither alone finds both.
    images = painted()
    merged = ImageSet(images.images, np.where(images.labels == 3, 0, images.labels), images.names, 3)
    file = read(scripted(tmp_path / "nearest.pt", NearestColor()))
    assert miou(file, (0, 1, 2, 0), merged) == 1
    assert miou(file, (0, 1, 2, NO_CLASS), merged) < 1
    logits = ExternalSegmenter(file, (0, 1, 2, 0), 3)(torch.rand(1, 3, 8, 8))
    assert logits.shape == (1, 4, 8, 8)
    assert (logits[:, 3] == -torch.inf).all()


def test_pixels_of_no_class_count_nowhere(nearest):
    images = painted()
    labels = images.labels.copy()
    labels[:, :8] = 4
    found = ExternalSegmenter(nearest, (1, 2, 3, 0), 4).counts(ImageSet(images.images, labels, images.names, 4), 2, CPU)
    assert sum(column.sum() for column in found.columns[1:]) == 2 * (labels != 4).sum()


# ------------------------------------------------------------------------------------------------------ sizes


class Fixed(nn.Module):
    """Takes images of one size only, and gives logits of a quarter of its sides."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width
        self.inner = NearestColor()

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] != self.height or images.shape[3] != self.width:
            raise ValueError("only of one size")
        return self.inner(nn.functional.avg_pool2d(images, 4))


def test_images_are_resized_for_it_and_logits_brought_back(tmp_path):
    path = scripted(tmp_path / "fixed.pt", Fixed(64, 96))
    file = read(path, size=(64, 96))
    assert file.size == (64, 96)
    images = painted()
    found = predict(ExternalSegmenter(file, (0, 1, 2, 3), 4), images.images, 2, CPU, "unit")
    assert found.shape == images.labels.shape
    assert (found == images.labels).mean() > 0.9  # all but the borders of the quadrants
    error = refusal(path)
    assert "[32, 32]" in error.found
    assert "only of one size" in error.found
    assert "segmenter_size" in error.remedy


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("bytes", (255, 51, 0)),
        ("unit", (1, 0.2, 0)),
        ("symmetric", (1, -0.6, -1)),
        ("imagenet", tuple((v - m) / s for v, m, s in zip((1, 0.2, 0), IMAGENET_MEAN, IMAGENET_STD, strict=True))),
    ],
)
def test_forms_of_the_images(form, expected):
    found = to_input(torch.tensor([[[[255, 51, 0]]]], dtype=torch.uint8), form)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


# ------------------------------------------------------------------------------------------------ wrong inputs


class Wrong(nn.Module):
    """Something that is no segmenter."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "infinite":
            return images / 0
        if self.kind == "classifier":
            return images.mean(dim=(2, 3))
        return images.argmax(1, keepdim=True)


def refusal(path: Path, model: str = "", *, key: str = "segmenter", **more) -> EvaluationError:
    """Return the error of reading a file; it is one line that names the option, and the file if that is at fault."""
    with pytest.raises(EvaluationError) as caught:
        read(path, model, **more)
    assert "\n" not in str(caught.value)
    assert caught.value.key == key
    assert caught.value.path == (str(path) if key == "segmenter" else "")
    return caught.value


def test_files_that_cannot_be_read(tmp_path, caplog, capfd):
    refusal(tmp_path / "missing.pt")
    assert "folder" in refusal(tmp_path).found
    for name in ("w.pt", "w.pt2"):
        torch.save({"layer.weight": torch.zeros(2)}, tmp_path / name)
        refusal(tmp_path / name)
    assert "segmenter_model" in refusal(tmp_path / "w.pt").remedy
    (tmp_path / "text.pt").write_text("not weights")
    assert "segmenter_model" in refusal(tmp_path / "text.pt").remedy
    assert "could not be read" in refusal(tmp_path / "text.pt", "smp/fpn/resnet18").found
    for path in (
        scripted(tmp_path / "cut.pt", NearestColor()),
        exported(tmp_path / "cut.pt2", NearestColor(), torch.zeros(1, 3, 32, 32)),
    ):
        content = bytearray(path.read_bytes())
        content[200:600] = bytes(400)
        path.write_bytes(content)
        assert "could not be read" in refusal(path).found
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr().err == ""


def test_code_in_a_file_of_weights_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    torch.save({"layer.weight": Trap()}, tmp_path / "trap.pt")
    assert "could not be read" in refusal(tmp_path / "trap.pt", "smp/fpn/resnet18").found
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("smp/fpm/resnet18", "'fpm'"),
        ("smp/fpn/resnet19", "'resnet19'"),
        ("torchvision/fcn_resnet18", "deeplabv3_mobilenet_v3_large"),
        ("keras/unet", "smp/<architecture>/<encoder>"),
    ],
)
def test_unknown_models(model, named, tmp_path):
    torch.save(build_segmenter("fpn", "resnet18", num_classes=3, seed=0).state_dict(), tmp_path / "weights.pt")
    error = refusal(tmp_path / "weights.pt", model, key="segmenter_model")
    assert error.found.startswith(model)
    assert named in error.found + error.remedy


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smp/fpn/resnet34", "smp/unet/resnet18", "torchvision/lraspp_mobilenet_v3_large"])
def test_weights_of_another_model(model, tmp_path):
    torch.save(build_segmenter("fpn", "resnet18", num_classes=3, seed=0).state_dict(), tmp_path / "weights.pt")
    assert model in refusal(tmp_path / "weights.pt", model).found


def test_sizes_that_a_model_does_not_take(tmp_path):
    torch.save(build_segmenter("fpn", "resnet18", num_classes=3, seed=0).state_dict(), tmp_path / "weights.pt")
    error = refusal(tmp_path / "weights.pt", "smp/fpn/resnet18", key="segmenter_size", size=(40, 64))
    assert error.found.startswith("[40, 64]")
    assert "[32, 64] or [64, 64]" in error.remedy


def test_a_program_is_no_file_of_weights(tmp_path):
    one = torch.zeros(1, 3, 32, 32)
    for path, model in (
        (scripted(tmp_path / "program.pt", NearestColor()), "smp/fpn/resnet18"),
        (exported(tmp_path / "program.pt2", NearestColor(), one), "torchvision/fcn_resnet50"),
    ):
        assert str(path) in refusal(path, model, key="segmenter_model").found


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("infinite", "not finite"),
        ("classifier", "torch.float32 [2, 3]"),
        ("classes", "torch.int64 [2, 1, 32, 32]"),
    ],
)
def test_programs_that_are_no_segmenters(kind, found, tmp_path):
    assert found in refusal(scripted(tmp_path / "wrong.pt", Wrong(kind))).found
