"""Training by crops: it learns, repeats itself, and goes on where it was stopped."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from whole import SmallSegmenter, whole_shapes

from evaluations.errors import EvaluationError
from evaluations.segmentation.crop_training import (
    Checkpoint,
    Checks,
    CropTrained,
    CropTrainingPlan,
    _optimizer,
    train_on_crops,
)
from evaluations.segmentation.crops import CropPlan, Late
from evaluations.segmentation.defect_scores import measure_defects
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.sliding import predict_whole

CPU = torch.device("cpu")
PLAN = CropTrainingPlan(6, batch_size=2)
IMAGES = whole_shapes(4)


class Stopped(Exception):
    pass


def stop_after(last: int, step: int) -> None:
    if step == last:
        raise Stopped


def train(model: nn.Module | None = None, plan: CropTrainingPlan = PLAN, **options) -> CropTrained:
    arguments = {"seed": 0, "device": CPU, **options}
    return train_on_crops(model or SmallSegmenter(), IMAGES, CropPlan(16), plan, **arguments)


def equal(first: CropTrained, second: CropTrained) -> bool:
    states = (first.model.state_dict().values(), second.model.state_dict().values())
    return all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.fixture
def stopped(tmp_path: Path) -> Checkpoint:
    """Return the checkpoint of a training that was stopped after 5 steps, and kept after 4."""
    checkpoint = Checkpoint(tmp_path / "new" / "training.pt", every=2)
    with pytest.raises(Stopped):
        train(checkpoint=checkpoint, callback=partial(stop_after, 5), checks=numbered())
    return checkpoint


def numbered() -> Checks:
    return Checks.evenly(3, PLAN.steps, lambda model: {"weight": float(model.encoder.weight.detach().sum())})


def test_it_learns_what_is_to_be_seen():
    plan = CropTrainingPlan(60, batch_size=4, encoder_rate=2e-2, decoder_rate=2e-2)
    trained = train(plan=plan)
    assert not trained.model.training
    predict = partial(predict_whole, trained.model, window=16, batch_size=16, device=CPU)
    found = measure_defects(predict, whole_shapes(6, seed=1), whole_shapes(3, seed=2, good=True))
    summary = found.summary(("", "bright", "dark"))
    assert summary["miou_with_good"] > 0.7
    assert summary["false_alarm_images"] == 0


def test_the_seed_decides_and_the_global_generator_does_not():
    torch.manual_seed(1)
    first = train()
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "training drew from the global generator"
    assert equal(first, train())
    assert not equal(first, train(seed=1))


def test_rates_rise_and_fall_separately():
    rates = []
    model = SmallSegmenter()
    plan = CropTrainingPlan(20, batch_size=2, encoder_rate=1e-4, decoder_rate=1e-2)
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    try:
        train(model, plan)
    finally:
        hook.remove()
    encoder, decoder = zip(*rates, strict=True)
    assert max(encoder) == pytest.approx(1e-4)
    assert max(decoder) == pytest.approx(1e-2)
    assert encoder[0] == pytest.approx(5e-5)
    assert encoder[-1] < 0.05 * max(encoder)
    assert [each["largest"] for each in _optimizer(model, plan).param_groups] == [1e-4, 1e-2]


def test_every_parameter_is_in_one_group():
    model = build_segmenter("unet", "tu-lcnet_050", num_classes=3, seed=0)
    encoder, rest = (group["params"] for group in _optimizer(model, PLAN).param_groups)
    assert len(encoder) == len(list(model.encoder.parameters()))
    assert len(encoder) + len(rest) == len(list(model.parameters()))


def test_checks_are_evenly_spaced_and_leave_no_trace():
    def record(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(1)
        return {"sum": float(model.encoder.weight.detach().sum())}

    trained = train(checks=Checks.evenly(3, 6, record))
    assert [step for step, _ in trained.records] == [2, 4, 6]
    assert trained.records[-1][1] == {"sum": float(trained.model.encoder.weight.detach().sum())}
    assert equal(trained, train())
    assert sorted(Checks.evenly(3, 10, record).steps) == [4, 7, 10]


def test_a_stopped_training_goes_on_bit_for_bit(stopped: Checkpoint):
    steps: list[int] = []
    trained = train(checkpoint=stopped, callback=steps.append, checks=numbered())
    assert steps == [5, 6]
    whole = train(checks=numbered())
    assert equal(trained, whole)
    assert trained.records == whole.records
    assert list(stopped.path.parent.iterdir()) == [stopped.path]


def test_a_finished_training_is_read_from_its_file(stopped: Checkpoint):
    first = train(checkpoint=stopped, checks=numbered())
    steps: list[int] = []
    again = train(checkpoint=stopped, callback=steps.append, checks=numbered())
    assert not steps
    assert equal(first, again)
    assert again.records == first.records
    assert again.seconds == first.seconds > 0


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"model": SmallSegmenter(seed=1)},
        {"plan": replace(PLAN, decoder_rate=0.1)},
        {"weights": [1, 2, 3, 4]},
        {"late": Late(5, np.array([1.0, 1, 0, 0]))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_file_of_another_training_is_refused(stopped: Checkpoint, other: dict):
    with pytest.raises(EvaluationError) as error:
        train(checkpoint=stopped, **other)
    assert error.value.key == "checkpoint"
    assert error.value.path == str(stopped.path)
    assert stopped.path.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"model": {}}, [1]], ids=str)
def test_a_damaged_file_is_refused(tmp_path: Path, content: object):
    path = tmp_path / "training.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(EvaluationError) as error:
        train(checkpoint=Checkpoint(path))
    assert error.value.key == "checkpoint"
    assert error.value.path == str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_a_full_disk_is_told_and_the_old_file_stays(stopped: Checkpoint):
    import resource

    before, limits = stopped.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(EvaluationError) as error:
            train(checkpoint=stopped, checks=numbered())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.path == str(stopped.path)
    assert error.value.found.startswith("cannot be written")
    assert stopped.path.read_bytes() == before
    assert list(stopped.path.parent.iterdir()) == [stopped.path]


def test_a_diverging_loss_is_told():
    broken = SmallSegmenter()
    with torch.no_grad():
        broken.encoder.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"\b6 steps"):
        train(broken)


def test_a_crop_that_does_not_fit_the_model_is_told():
    model = build_segmenter("unet", "tu-lcnet_050", num_classes=3, seed=0)
    with pytest.raises(EvaluationError) as error:
        train(model)
    assert error.value.key == "crop"
