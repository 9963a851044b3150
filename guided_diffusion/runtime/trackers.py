"""Trackers: programs that collect the metrics of many runs. None of them is ever in the way of a training."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from guided_diffusion.runtime.errors import one_line
from guided_diffusion.runtime.files import write_text

RUN_IDS = "trackers.json"
"""The file in a run's folder by which a resumed run goes on in the trackers, too."""
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
_PROJECT = "isdm"
_PARAMETERS_AT_ONCE = 100  # as many as MLflow takes


class Tracker(Protocol):
    """Where metrics go."""

    run_id: str | None  # None: it has none

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class TensorBoard:
    """Events in the folder `tensorboard`; those from `first_step` on, of a killed run, count no more."""

    run_id = None

    def __init__(self, folder: Path, settings: Mapping[str, Any], first_step: int, run_id: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._events.add_scalar(key, value, step)

    def close(self, *, failed: bool) -> None:
        self._events.close()


class MLflow:
    """A run of the experiment `isdm`, in MLFLOW_TRACKING_URI, or in the folder `mlruns` of the run."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], first_step: int, run_id: str | None):
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # A server that is down would hold up the training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which is all that mlflow-skinny has
            uri = (folder / "mlruns").absolute().as_uri()
        self._client = MlflowClient(uri)
        try:
            if run_id is not None:
                self._client.update_run(run_id, status="RUNNING")
        except MlflowException:  # another store, or the run was deleted there
            run_id = None
        if run_id is None:
            experiment = self._client.get_experiment_by_name(_PROJECT)
            number = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
            run_id = self._client.create_run(number, run_name=_run_name(folder)).info.run_id
            parameters = [Param(key, json.dumps(value)) for key, value in settings.items()]
            for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
                self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])
        self.run_id = run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class WandB:
    """A run of the project `isdm` in the folder `wandb`; offline, unless WANDB_MODE says something else."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], first_step: int, run_id: str | None):
        import wandb

        self.run_id = run_id or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=_run_name(folder),
            dir=str(folder),
            id=self.run_id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or "offline",  # what was not asked for stays on this computer
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


_TRACKERS: dict[str, type] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def is_installed(name: str) -> bool:
    """Return whether the package of a tracker is."""
    return find_spec(name) is not None


class Trackers:
    """All trackers of a run. One that fails is left out from then on, and `warn` is told so in one line."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        *,
        first_step: int,
        warn: Callable[[str], None],
    ):
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        ids = _read_ids(folder)
        for name in filter(is_installed, names):
            self._guarded(name, lambda name=name: self._begin(name, folder, settings, first_step, ids.get(name)))
        found = {name: tracker.run_id for name, tracker in self._open.items() if tracker.run_id}
        if found and {**ids, **found} != ids:
            write_text(folder / RUN_IDS, json.dumps({**ids, **found}) + "\n")

    def _begin(self, name: str, folder: Path, settings: Mapping[str, Any], step: int, run_id: str | None) -> None:
        self._open[name] = _TRACKERS[name](folder, settings, step, run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass finite numbers on."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: tracker.log(step, values))

    def close(self) -> None:
        """End all runs: as failed ones where an exception is on its way."""
        failed = sys.exc_info()[0] is not None
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: tracker.close(failed=failed))

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a server that is down, a disk quota, a change of their interface
            self._open.pop(name, None)
            reason = one_line(str(error)) or type(error).__name__
            self._warn(f"warning: {name} does not track this run any more ({reason}); the training goes on")


def _run_name(folder: Path) -> str:
    return "/".join(folder.absolute().parts[-2:])


def _read_ids(folder: Path) -> dict[str, str]:
    try:
        content = json.loads((folder / RUN_IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str)} if isinstance(content, dict) else {}
