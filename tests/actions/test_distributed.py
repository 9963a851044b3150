"""Two CPU processes do what one does: started by torchrun and by mpiexec, or told of each other as torchrun does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import finish, start_pair
from tiny import TINY, TWO_LEVELS

from guided_diffusion.diffusion.options import CLASSWISE
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device, launched_as
from guided_diffusion.runtime.errors import UserError

slow = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}")
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"],
    "mpiexec": [MPIEXEC or "mpiexec", "-n", "2", sys.executable, "-m", "mpi4py"],
}
Run = Callable[[str, dict], tuple[int, str]]


def run_launcher(prefix: list[str], action: str, values: dict) -> tuple[int, str]:
    """Return the exit code of a launcher and what it and its processes wrote to stderr."""
    arguments = [f"--set={key}={json.dumps(value, default=str)}" for key, value in values.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*prefix, str(ROOT / "main.py"), action, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return result.returncode, result.stderr


@pytest.fixture(params=LAUNCHERS)
def launch(request) -> Run:
    """Run an action in two processes that a real launcher starts: what depends on the launcher is tested with both.

    With `sample`, since a training imports for three seconds more in each process and meets by the same code.
    """
    if request.param == "mpiexec":
        pytest.importorskip("mpi4py")
        if MPIEXEC is None:
            pytest.skip("no mpiexec here: pip install mpich")
    return lambda action, values: run_launcher(LAUNCHERS[request.param], action, values)


@pytest.fixture
def pair(tmp_path) -> Run:
    """Run an action in two processes; what they do once they have met does not depend on who started them."""

    def run(action: str, values: dict) -> tuple[int, str]:
        codes = [finish(process) for process in start_pair(action, values, tmp_path / "shown")]
        return max(codes, key=abs), "".join((tmp_path / f"shown.{rank}").read_text() for rank in range(2))

    return run


def check_training(run: Run, values: dict, lemons: Path, tmp_path: Path, isdm) -> None:
    """8 images in global batches of 6: the second batch has 2 images, one for each process."""
    common = {**TINY, "data_dir": str(lemons), "max_epochs": 2, "drop_rate": 0.4, "grad_clip": 0.0, **values}
    common["diffusion_steps"] = 30
    code, shown = run("train", {**common, "batch_size": 3, "output_dir": str(tmp_path / "two")})
    assert code == 0, shown[-2000:]
    assert isdm("train", **{**common, "batch_size": 6, "output_dir": str(tmp_path / "one")})[0] == 0
    one, two = load_checkpoint(tmp_path / "one" / LAST), load_checkpoint(tmp_path / "two" / LAST)
    assert one.progress["step"] == two.progress["step"] == 4
    for first, second in zip(one.progress["history"], two.progress["history"], strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
    # The first moment is a sum of gradients: it tells differences that Adam's division would blow up or hide.
    for key, state in one.optimizer["state"].items():
        other = two.optimizer["state"][key]["exp_avg"]
        assert torch.allclose(state["exp_avg"], other, rtol=1e-3, atol=1e-6)


@slow
def test_two_processes_train_like_one_on_the_same_global_batch(pair, lemons, tmp_path, isdm):
    values = {"schedule_sampler": "stratified", "cond_diffuse": True, "cond_opt": CLASSWISE}
    check_training(pair, values, lemons, tmp_path, isdm)


@slow
def test_timesteps_by_the_losses_of_all_processes(pair, lemons, tmp_path, isdm):
    check_training(pair, {"schedule_sampler": "loss-second-moment"}, lemons, tmp_path, isdm)


@slow
def test_holes_and_told_augmentation(pair, lemons, tmp_path, isdm):
    values = {"resize": "window", "inpaint": True, "augment": 0.4, "condition": "mask", "learn_sigma": True}
    check_training(pair, values, lemons, tmp_path, isdm)


@slow
def test_boxes_and_what_masks_learn(pair, lemons, tmp_path, isdm):
    values = {"condition": "boxes", "mask_supervision": 0.5, "style_dim": 4, "label_dim": 8, "learn_sigma": False}
    check_training(pair, values, lemons, tmp_path, isdm)
    masks = [load_checkpoint(tmp_path / name / LAST).progress["history"][0]["mask_loss"] for name in ("one", "two")]
    assert masks[0] == pytest.approx(masks[1], rel=1e-5)


@slow
def test_two_processes_train_an_autoencoder_like_one(pair, lemons, tmp_path, isdm):
    common = {**TWO_LEVELS, "data_dir": str(lemons), "max_epochs": 1, "latent": 4, "image_size": 32, "gate": 0}
    common |= {"attention_resolutions": [4], "allow_thin": True, "autoencoder_channels": 8, "autoencoder_steps": 4}
    common |= {"autoencoder_crop": 16}
    two = {**common, "batch_size": 3, "autoencoder_batch_size": 2, "output_dir": str(tmp_path / "two")}
    code, shown = pair("train", two)
    assert code == 0, shown[-2000:]
    one = {**common, "batch_size": 6, "autoencoder_batch_size": 4, "output_dir": str(tmp_path / "one")}
    assert isdm("train", **one)[0] == 0
    first, second = (load_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    names = [name for name in first.model if name.startswith("first_stage.")]
    assert len(names) > 20
    differences = torch.cat([(first.model[name] - second.model[name]).flatten().abs() for name in names])
    assert differences.mean() < 1e-4  # a step of AdamW is 1e-3
    assert first.latent["gate"]["psnr"] == pytest.approx(second.latent["gate"]["psnr"], abs=0.05)
    assert first.progress["history"][0]["loss"] == pytest.approx(second.progress["history"][0]["loss"], rel=1e-2)


@slow
def test_an_epoch_with_fewer_images_than_processes_does_not_hang(pair, lemons, tmp_path):
    values = {**TINY, "data_dir": str(lemons), "max_epochs": 1, "output_dir": str(tmp_path / "run"), "batch_size": 7}
    for kind in ("images", "masks"):
        for path in sorted((lemons / "train" / kind).iterdir())[:1]:
            target = tmp_path / "data" / "train" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copy(lemons / "classes.json", tmp_path / "data")
    code, shown = pair("train", {**values, "data_dir": str(tmp_path / "data")})
    assert code == 0, shown[-2000:]


@slow
def test_a_mistake_ends_all_processes_with_one_line(launch, lemons, tmp_path):
    values = {**TINY, "data_dir": str(lemons / "nowhere"), "output_dir": str(tmp_path / "run")}
    code, shown = launch("train", values)
    assert code != 0
    assert sum("error: " in line and "nowhere" in line for line in shown.splitlines()) == 1
    assert "guided_diffusion/data" not in shown


@slow
@pytest.mark.parametrize("action", ["evaluate", "study"])
def test_what_runs_in_one_process_says_so_once(pair, action, lemons, tmp_path):
    paths = {"evaluate": ("synthetic_dir",), "study": ("good_dir", "good_test_dir", "train_config")}[action]
    values = {key: str(tmp_path / key) for key in (*paths, "output_dir")}
    code, shown = pair(action, {**values, "data_dir": str(lemons), "dataset_mode": "multi-class"})
    assert code == 2
    assert shown.count("runs in one process") == 1


@slow
def test_two_processes_sample_what_one_does(launch, trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "steps": 3, "num_samples": 9, "s": 1.5}
    code, shown = launch("sample", {**values, "batch_size": 2, "results_path": str(tmp_path / "two")})
    assert code == 0, shown[-2000:]
    assert isdm("sample", **values, batch_size=5, results_path=str(tmp_path / "one"))[0] == 0
    names = {
        folder: sorted(path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("lemon*.png"))
        for folder in ("one", "two")
    }
    assert names["one"] == names["two"]
    assert len(names["one"]) == 18
    for name in names["one"]:
        first, second = (np.asarray(Image.open(tmp_path / folder / name)).astype(int) for folder in ("one", "two"))
        assert np.abs(first - second).max() <= ("images" in name.parts)
    manifests = [(tmp_path / folder / "manifest.jsonl").read_text() for folder in ("one", "two")]
    assert manifests[0] == manifests[1]


def test_launchers_are_recognized():
    assert launched_as({}) == (0, 1, 0)
    assert launched_as({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == (3, 4, 1)
    assert launched_as({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}) == (1, 2, 0)
    assert launched_as({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}) == (1, 2, 1)


def test_devices_that_do_not_exist_are_refused():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"^device\b.*'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(UserError, match=r"^device\b.*'cuda'"):
            choose_device("cuda")
