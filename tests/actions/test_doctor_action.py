"""`doctor`: its page, the figures of a training, and that it notices what computes wrongly."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import time
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from error_lines import check_error
from PIL import Image
from pretended_cuda import pretended_cuda
from processes import finish, start
from tiny import TINY

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.data.loader import TrainBatch
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.doctor import abilities, machine, self_test, step_times, trial
from guided_diffusion.pipelines.doctor.abilities import try_out
from guided_diffusion.pipelines.doctor.examine import examine
from guided_diffusion.pipelines.doctor.fitting import fitting, largest_that_fits
from guided_diffusion.pipelines.doctor.measuring import PeakMemory, of_size
from guided_diffusion.pipelines.doctor.page import Part, page
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(lemons, tmp_path) -> Path:
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 3}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
def test_figures_of_a_training(config, lemons, trained, tmp_path, isdm):
    code, shown, errors = isdm("doctor", train_config=config, output_dir=tmp_path / "doctor", time_limit=0)
    assert code == 0, errors
    text = (tmp_path / "doctor" / "doctor.md").read_text()
    assert text in shown
    record = json.loads((tmp_path / "doctor" / "doctor.json").read_text())
    assert record["failed"] == []
    found = record["The training of train.json on cpu"]
    assert (found["examples"], found["steps_an_epoch"], found["steps"]) == (8, 3, 9)
    weights = load_checkpoint(trained / LAST).model
    assert found["parameters"] == sum(value.numel() for value in weights.values())
    for name, key in ((BEST, "best_bytes"), (LAST, "last_bytes")):
        assert found[key] == pytest.approx((trained / name).stat().st_size, rel=0.1)
    assert found["images_per_second"] == pytest.approx(8 / sum(found["step_seconds"]), rel=1e-6)
    assert found["largest_batch"] >= 3
    assert not (tmp_path / "run").exists()
    assert str(config.parent) not in text  # a page that is shown to others has no paths
    assert str(lemons) not in text


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch, isdm):
    monkeypatch.chdir(tmp_path)
    code, shown, _ = isdm("doctor", time_limit=0)
    assert code == 0
    assert torch.__version__.split("+")[0] in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [{"data_dir": "nowhere"}, {"lr": "fast"}, {"num_channels": 33}])
def test_a_training_that_could_not_begin_is_refused(values, config, tmp_path, isdm):
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    code, _, errors = isdm("doctor", train_config=config, output_dir=tmp_path / "doctor", time_limit=0)
    assert code == 2
    check_error(errors[0], "nowhere" if "data_dir" in values else "train_config", *(values if "lr" in values else ()))
    assert not (tmp_path / "doctor").exists()


@pytest.mark.slow
def test_a_checkpoint_that_the_training_could_not_begin_with_is_refused(config, trained, tmp_path, isdm):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((trained / LAST).read_bytes()[:5000])
    values = json.loads(config.read_text())
    for changed, shown in (
        ({"resume_checkpoint": str(tmp_path / "none.pt")}, [tmp_path / "none.pt", "no such checkpoint file"]),
        ({"resume_checkpoint": str(damaged)}, [damaged]),
        ({"resume_checkpoint": str(trained), "num_channels": 64}, ["train_config", "num_channels differs", trained]),
        ({"resume_checkpoint": str(trained)}, ["train_config", "resume_checkpoint", "max_epochs"]),
    ):
        config.write_text(json.dumps({**values, **changed}))
        code, _, errors = isdm("doctor", train_config=config, time_limit=0)
        assert (code, len(errors)) == (2, 1)
        check_error(errors[0], *shown)


@pytest.mark.slow
def test_a_training_that_begins_with_weights_is_measured(config, trained, tmp_path, isdm):
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "resume_checkpoint": str(trained), "max_epochs": 9})
    )
    code, shown, errors = isdm("doctor", train_config=config, time_limit=0)
    assert (code, errors) == (0, [])
    assert "images at a time that fit" in shown
    assert str(trained) not in shown


class TestPlantedFaults:
    """What drivers do wrong, planted into PyTorch; the reference is not computed with it."""

    def failed(self, monkeypatch, plant) -> list[str]:
        things = {"training step": self_test._training_step}
        monkeypatch.setattr(self_test, "_work", lambda: things)
        original = torch.nn.functional.silu

        def faulty(x, *args, **kwargs):
            made = original(x, *args, **kwargs)
            return made if x.dtype is torch.float64 else plant(made)

        monkeypatch.setattr(torch.nn.functional, "silu", faulty)
        part = self_test.self_test(torch.device("cpu"), deadline=time.monotonic() + 600)
        return list(part.failed)

    @pytest.mark.slow
    def test_a_wrong_function(self, monkeypatch):
        failed = self.failed(monkeypatch, lambda made: made * 1.5)
        assert any("gradient in fp32" in line and "learns something else" in line for line in failed)

    @pytest.mark.slow
    def test_one_that_is_not_there(self, monkeypatch):
        def refuse(made):
            raise RuntimeError("silu is not implemented for this device\nmore")

        failed = self.failed(monkeypatch, refuse)
        assert len(failed) == 3
        assert all("not implemented" in line and "more" not in line for line in failed)

    @pytest.mark.slow
    def test_values_that_are_not_finite(self, monkeypatch):
        assert len(self.failed(monkeypatch, lambda made: made * float("nan"))) == 6


def test_without_time_nothing_is_called_failed():
    part = self_test.self_test(torch.device("cpu"), deadline=time.monotonic() - 1)
    assert not part.rows
    assert not part.failed
    assert all(thing in part.notes[-1] for thing in self_test.things())


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "fits"), [(1, 1), (4, 4), (99, 8)])
def test_batches_that_fit_on_a_gpu(limit, fits, config, tmp_path):
    """A GPU without room for more images than `limit` is pretended."""

    def memory(module, arguments):
        if isinstance(module, UNetModel) and len(arguments[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    config.write_text(
        json.dumps({**json.loads(config.read_text()), "num_workers": 0, "compile": False, "batch_size": 2})
    )
    hook = torch.nn.modules.module.register_module_forward_pre_hook(memory)
    try:
        with pretended_cuda():
            part = fitting(str(config), torch.device("cuda", 0), tmp_path / "work")
    finally:
        hook.remove()
    assert part.record["largest_batch"] == fits
    assert part.record["at_once"] == min(2, limit)
    assert len(part.record["step_seconds"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "batches", [{"batch_size": 1}, {"batch_size": 2, "microbatch": 1}], ids=["batch", "microbatch"]
)
def test_one_image_at_a_time_has_the_memory_of_others_beside_it(batches, config, tmp_path):
    """In a process of its own, as memory that others took before is used again."""
    config.write_text(json.dumps({**json.loads(config.read_text()), **batches, "image_size": 64, "num_workers": 0}))
    shown = tmp_path / "shown.txt"
    assert finish(start("doctor", {"train_config": config, "time_limit": 0, "device": "cpu"}, shown)) == 0
    rows = shown.read_text()
    (image,) = re.findall(r"about (\S+ \S+) for each image", rows)
    assert not image.startswith("0 "), rows


def test_doubling():
    for first in (1, 3, 8):
        for most in (first, 2 * first, 7 * first + 1):
            for room in range(first, most + 3):
                tried: list[int] = []
                largest, failed = largest_that_fits(first, most, lambda n, t=tried, r=room: t.append(n) or n <= r)
                assert first <= largest <= min(most, room)
                assert (failed is None) == (largest == most)
                assert failed is None or room < failed <= 2 * largest
                assert len(tried) == len(set(tried))


def test_a_batch_of_any_size_repeats_the_images():
    image = torch.arange(3.0).view(3, 1, 1, 1)
    condition = SemanticMap(torch.arange(3).view(3, 1, 1), 3)
    batch = TrainBatch(image, condition, torch.arange(3), torch.ones(3), 3)
    for count in (1, 3, 7):
        made = of_size(batch, count)
        assert made.image.flatten().tolist() == made.condition.label.flatten().tolist() == [i % 3 for i in range(count)]
        assert made.global_size == len(made.batch_index) == len(made.weight) == count


def test_peak_memory_sees_what_was_freed():
    with PeakMemory(torch.device("cpu")) as before:
        pass
    # New pages, where a tensor may get ones that the process has.
    with PeakMemory(torch.device("cpu")) as during, mmap.mmap(-1, 2**28) as held:
        for start in range(0, 2**28, mmap.PAGESIZE):
            held[start] = 1
        time.sleep(0.05)
    assert during.bytes > before.bytes + 2**27


def test_trials_that_fail_say_why(capsys):
    trial.main(["nothing", "cpu", "compile", "no such device"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["nothing", "compile"]
    assert not any(line["works"] for line in lines)
    assert "device" in lines[1]["detail"]


def test_a_trial_that_hangs_is_ended():
    started = time.monotonic()
    found = try_out(["bf16"], "cpu", seconds=0.01)
    assert found["bf16"].works is None
    assert "0.01 s" in found["bf16"].detail
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_the_whole_examination(isdm, tmp_path, monkeypatch):
    """A self-test with no tolerance for bf16 fails in that alone, and the page says so first."""
    monkeypatch.setattr(abilities, "TRIAL_SECONDS", 300)  # a busy machine is no fault
    # Half of the time of a compilation: the compiler tries each instruction set that the CPU says it has.
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
    monkeypatch.setitem(self_test.TOLERANCES, "bf16", 0.0)
    monkeypatch.setattr(step_times, "SIZES_OF_CPU", (step_times.Size(16, 32, 1), step_times.Size(32, 32, 2)))
    code, shown, _ = isdm("doctor", output_dir=tmp_path, time_limit=600, device="cpu")
    assert code == 1
    assert shown.splitlines()[2].endswith("failed**, see below.")
    record = json.loads((tmp_path / "doctor.json").read_text())
    assert {"Versions", "Devices", "Disk and browser", "Missing extras"} < record.keys()
    works = {name: record["What works on cpu"][name]["works"] for name in ("bf16", "fp16", "compile", "mpi")}
    has_mpi = "mpi4py" in {dist.name for dist in metadata.distributions()}
    assert works == {"bf16": True, "fp16": True, "compile": record["What works on cpu"]["compiler"] is not None,
                     "mpi": has_mpi}  # fmt: skip
    rows = record["Self-test of cpu"]
    assert len({(row["what"], row["precision"]) for row in rows}) == 3 * (2 + 1 + len(SAMPLERS))
    assert {row["precision"] for row in rows if not row["passed"]} == {"bf16"}
    errors = {kind: [row["error"] for row in rows if row["precision"] == kind] for kind in ("fp32", "bf16")}
    assert max(errors["fp32"]) < max(errors["bf16"])  # the reference is not rounded itself
    times = record["Step times on cpu"]
    assert [row["side"] for row in times] == [16, 32]
    assert all(row["training_seconds"] > row["sampling_seconds"] > 0 for row in times)


class TestFullDisks:
    """A machine that is examined because something is wrong with it."""

    @staticmethod
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    @pytest.mark.slow
    def test_a_page_comes_without_what_could_not_be_measured(self, monkeypatch):
        monkeypatch.setattr(abilities, "TRIAL_SECONDS", 0.01)
        monkeypatch.setattr(Image.Image, "save", self.full)  # those of the dataset for step times
        parts = examine(load_config("doctor", {"time_limit": 1, "device": "cpu"}), torch.device("cpu"))
        assert parts[-1].title == "Step times"
        assert "No space left on device" in parts[-1].failed[0]
        assert {"Versions", "Devices", "What works on cpu"} < {part.title for part in parts}

    def test_a_disk_that_cannot_be_written_has_failed(self, monkeypatch, isdm):
        monkeypatch.setattr(os, "fsync", self.full)
        code, shown, _ = isdm("doctor", time_limit=0)
        assert code == 1
        assert "cannot be written (No space left on device): set TMPDIR" in shown

    def test_a_page_that_cannot_be_written_is_shown(self, tmp_path, isdm):
        (tmp_path / "file").touch()
        code, shown, errors = isdm("doctor", time_limit=0, output_dir=tmp_path / "file" / "doctor")
        assert code == 2
        assert "is no folder" in errors[-1]
        assert "## Devices" in shown


def test_the_disk_is_left_as_it_was(tmp_path):
    found = machine.disk_speed(tmp_path, 2**20)
    assert found["write"] > 0
    assert found["read"] > 0
    assert list(tmp_path.iterdir()) == []


def test_every_package_of_the_project_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.split(r"[ <>=;\[]", line)[0] for line in requirements} - {"isdm"}

    assert names(project["dependencies"]) == set(machine.LIBRARIES)
    optional = project["optional-dependencies"]
    needed = set().union(*(names(lines) for extra, lines in optional.items() if extra != "test"))
    assert needed <= {extra.package for extra in machine.EXTRAS} | {"mpich"}


def test_tables_survive_any_text():
    text = page("title", [Part("part", ("a", "b"), (("x|y", "line\nbreak"),), failed=("it | broke",))])
    assert "| x\\|y | line\\nbreak |" in text
    assert "**1 failed**" in text.splitlines()[2]
    np.testing.assert_equal(
        len({line.count("|") - line.count("\\|") for line in text.splitlines() if line[:1] == "|"}), 1
    )
