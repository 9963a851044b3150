"""The work of a study by several processes: generators and segmentation models, each as soon as it can begin.

One process that trains a small network keeps one core busy, and neither the others nor a GPU. Every process reads the
data for itself; what it prints goes into a file. Results are those of one process: nothing depends on the order.

CUDA does not survive a fork, so that no process is forked from this one. On Linux they are forked from one that has
imported what they need and has done nothing else, which saves each of them the seconds that an import takes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from evaluations.errors import EvaluationError
from guided_diffusion.config.study import StudyConfig, amount_name
from guided_diffusion.pipelines.study.generator import RunAction, generator_of
from guided_diffusion.pipelines.study.progress import Progress
from guided_diffusion.pipelines.study.runs import SegmenterTraining, runs_of
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import StudyImages, checkpoint_path, train_one
from guided_diffusion.runtime.errors import Interrupted, UserError
from guided_diffusion.runtime.files import make_folder, remove
from guided_diffusion.runtime.memory import keep_freed_memory

LOGS = "logs"
VISIBLE = "CUDA_VISIBLE_DEVICES"
GENERATOR, MODEL = "generator", "model"
SHOWN_EVERY = 10  # steps, between two messages of a training
PATIENCE = 60  # seconds that a process has for saving a training when it is asked to stop

Task = tuple[str, str]
"""(GENERATOR, an amount as its folder names it) or (MODEL, the key of a training)."""


def work_at_once(training: SegmenterTraining, images: StudyImages, progress: Progress, run_action: RunAction) -> None:
    """Make the generators and train the models of `progress`, `at_once` of them at a time.

    Models whose images need no generator, or one that is finished, are trained in the meantime. Raises UserError for
    what goes wrong in a process; the others are asked to stop, and keep what they have.
    """
    config = images.setup.config
    models = {run.key: run for run in progress.todo}
    making = {each.name for each in images.generators.values() if not all(map(each.is_done, each.stages))}
    tasks: list[Task] = [(GENERATOR, each.name) for each in images.generators.values() if each.name in making]
    tasks += [(MODEL, key) for key in models]

    def is_ready(task: Task) -> bool:
        run = models.get(task[1])
        return run is None or not images.generators[run.amount].makes(run.arm) or amount_name(run.amount) not in making

    with _started(min(config.at_once, len(tasks)), config, training.device, run_action) as workers:
        while tasks or any(worker.task for worker in workers):
            for worker in workers:
                task = next(filter(is_ready, tasks), None)
                if worker.task is None and task is not None:
                    tasks.remove(task)
                    run = models.get(task[1])
                    worker.begin(task, progress.step_seconds(run) if run else None)
                    if run is None:
                        progress.say(f"generator of {task[1]} images: what it prints goes to {worker.log}")
                    else:
                        progress.begin(run)
            for worker in _with_news(workers):
                kind, content = worker.news()
                run = models.get(worker.task[1]) if worker.task else None
                if kind == "step":
                    progress.show(run, content)
                    continue
                if run is None:
                    making.discard(worker.task[1])
                    progress.say(f"generator of {worker.task[1]} images: finished")
                else:
                    progress.finish(run, content)
                    remove(checkpoint_path(config, run))
                worker.task = None


@dataclass
class _Worker:
    """A process, the task that it has, and the way to talk to it."""

    process: BaseProcess
    connection: Connection
    log: Path
    task: Task | None = None

    def begin(self, task: Task, step_seconds: float | None) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # of a process that is gone: its end is the next thing that is read
            self.connection.send((*task, step_seconds))

    def news(self) -> tuple[str, Any]:
        """Return what the process says: "step" or "done" and its content. UserError for a failure or a sudden end."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            found = f"this process of the study ended unexpectedly (exit code {self.process.exitcode})"
            remedy = "if it was out of memory, lower at_once; the same command goes on where it stopped"
            raise UserError.of(self.log, found, remedy) from None
        if kind == "refused":
            raise UserError(content)
        if kind == "failed":
            raise RuntimeError(f"in a process of the study:\n{content}")
        return kind, content


def _with_news(workers: list[_Worker]) -> list[_Worker]:
    by_connection = {worker.connection: worker for worker in workers if worker.task is not None}
    return [by_connection[each] for each in wait(list(by_connection))]  # type: ignore[index]


@contextlib.contextmanager
def _started(count: int, config: StudyConfig, device: torch.device, run_action: RunAction) -> Iterator[list[_Worker]]:
    """Start processes; at the end they have none to wait for any more, or are asked to stop."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([_work.__module__])
    folder = Path(config.output_dir).absolute() / LOGS
    make_folder(folder)
    workers = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            log = folder / f"process_{number}.txt"
            gpus = gpus_of(number, config.compute.device)
            arguments = (theirs, config, str(device), gpus, run_action, str(log))
            process = context.Process(target=_work, args=arguments, name=f"study {number}")
            process.start()
            theirs.close()
            workers.append(_Worker(process, ours, log))
        yield workers
    finally:
        for worker in workers:
            worker.connection.close()
            if worker.task is not None:
                worker.process.terminate()
        for worker in workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()


def gpus_of(number: int, device: str) -> str | None:
    """Return what CUDA_VISIBLE_DEVICES is to be in a process: of several GPUs one, in turns, where none was chosen."""
    setting = os.environ.get(VISIBLE)
    visible = visible_gpus(setting, torch.cuda.device_count())
    return setting if device not in ("auto", "cuda") or len(visible) < 2 else visible[number % len(visible)]


def visible_gpus(setting: str | None, count: int) -> list[str]:
    """Return the names of `count` GPUs as CUDA_VISIBLE_DEVICES, whose value is `setting`, takes them."""
    names = [str(index) for index in range(count)] if setting is None else setting.split(",")
    return [name.strip() for name in names[:count]]


# ----------------------------------------------------------------------------------------- in the other process


def _work(
    connection: Connection, config: StudyConfig, device: str, gpus: str | None, run_action: RunAction, log: str
) -> None:
    """Do the tasks that come until the connection is closed, on what CUDA_VISIBLE_DEVICES is to be (None: unset)."""
    os.environ.pop(VISIBLE, None)
    if gpus is not None:
        os.environ[VISIBLE] = gpus
    _end_with_parent()
    # A forked process makes PyTorch's pool of threads anew at its first use, which fails if several threads are first.
    torch.set_num_threads(torch.get_num_threads())
    with open(log, "a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            _do_tasks(connection, config, torch.device(device), run_action)
        except (UserError, EvaluationError) as error:
            _tell(connection, "refused", getattr(error, "messages", str(error)))
        except (KeyboardInterrupt, Interrupted):
            pass  # asked to stop; what was begun is kept
        except OSError as error:
            # As the command line tells it; a full disk has no room for what is printed, either.
            _tell(connection, "refused", f"{error.filename or log}: {error.strerror or error}")
        except Exception:
            _tell(connection, "failed", traceback.format_exc())
            traceback.print_exc()


def _tell(connection: Connection, kind: str, content: Any) -> None:
    with contextlib.suppress(OSError):
        connection.send((kind, content))


def _do_tasks(connection: Connection, config: StudyConfig, device: torch.device, run_action: RunAction) -> None:
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(max(1, torch.get_num_threads() // config.at_once))
    setup = prepare(config)
    training = SegmenterTraining.of(setup, device)
    generators = {amount: generator_of(setup, amount) for amount in config.design.repeats}
    models = {run.key: run for run in runs_of(config.design, setup.arms, training.architectures)}
    images: StudyImages | None = None
    while True:
        try:
            kind, name, step_seconds = connection.recv()
        except (EOFError, OSError):
            return
        result = None
        if kind == GENERATOR:
            next(each for each in generators.values() if each.name == name).run(run_action)
        else:
            images = images or StudyImages.read(setup, generators)
            show = partial(_show, connection)
            result = train_one(models[name], training, images, step_seconds=step_seconds, callback=show)
        connection.send(("done", result))


def _show(connection: Connection, step: int) -> None:
    if step % SHOWN_EVERY == 0:
        connection.send(("step", step))


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
