"""Measure how fast the studio answers; print Markdown tables.

    python -m scripts.measure.studio_speed [--rounds 5] [--folder DIR] [--images 4] [--size 64]

The first byte of the page from the start of the command; labels there and back without a model, through everything
that a wish goes through (guard, unpacking, checks); and images of a mask from the request to the last one. The network
is one of 64 px and 32 channels that was trained for a step, as its weights do not matter; `--folder` keeps it.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from guided_diffusion.config.load import load_config
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.pipelines.studio.workplace import label_of
from guided_diffusion.studio.answers import label_answer
from guided_diffusion.studio.bodies import DrawBody
from guided_diffusion.studio.guard import Guard
from guided_diffusion.studio.server import Studio, listening

ROOT = Path(__file__).parents[2]
NETWORK = {
    "dataset_mode": "lemon-multi-class",
    "num_channels": 32,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "attention_resolutions": [16],
    "resblock_updown": False,
    "batch_size": 4,
    "max_epochs": 1,
    "preview_interval": 0,
    "drop_rate": 0.2,
    "trackers": [],
}
SIDES = (256, 512, 1024)
CLASSES = 6


def trained_network(folder: Path, size: int) -> tuple[Path, Path]:
    """Return the run folder of a network and its dataset, made where they are not there yet."""
    data, run = folder / "lemons", folder / f"run_{size}"
    write_demo_dataset(data, num_train=4, num_test=2, size=size)
    if not (run / "best.pt").exists():
        from guided_diffusion.actions.train import run as train

        train(load_config("train", {**NETWORK, "image_size": size, "data_dir": str(data), "output_dir": str(run)}))
    return run, data


def first_byte(run: Path, data: Path, results: Path) -> tuple[float, float]:
    """Return the seconds from the command to the first byte of the page, and how many of them were computed."""
    keys = {"model_path": run, "data_dir": data, "results_path": results, "open_browser": "false"}
    settings = [f"--set={key}={value}" for key, value in keys.items()]
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "main.py"), "studio", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
            connection.request("GET", "/")
            connection.getresponse().read(1)
            seconds = time.perf_counter() - started
            used = psutil.Process(process.pid).cpu_times()
            return seconds, used.user + used.system
        finally:
            process.kill()


async def echo(request: Request) -> Response:
    """Answer the labels of a wish."""
    body = DrawBody(request)
    head = await body.head()
    raw = await body.labels(head.size[0] * head.size[1])
    return label_answer(label_of(raw, (head.size[0], head.size[1]), LabelEncoding.identity(CLASSES)))


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve an application in a thread, and yield its port."""
    with listening(0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none", http="h11"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def blobs(side: int) -> np.ndarray:
    """Return a label map of round patches of all classes, as painted masks have them."""
    rng, label = np.random.default_rng(0), np.zeros((side, side), np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for number in range(24):
        row, column, radius = rng.integers(0, side), rng.integers(0, side), rng.integers(side // 40, side // 8)
        label[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = number % CLASSES
    return label


def post(connection: http.client.HTTPConnection, port: int, token: str, label: np.ndarray, **head: Any) -> bytes:
    """Send a wish as the page does, and return the answer."""
    line = json.dumps({"size": list(label.shape), "count": 1, "seed": 0, **head}).encode()
    headers = {"Host": f"127.0.0.1:{port}", "X-ISDM-Token": token, "Content-Type": "application/octet-stream"}
    connection.request("POST", "/api/draws", line + b"\n" + gzip.compress(label.tobytes(), 6), headers)
    return connection.getresponse().read()


def round_trips(rounds: int) -> list[str]:
    """Return a row of a table for each side of a mask: milliseconds there and back."""
    rows = []
    with serving(Guard(Router([Route("/api/draws", echo, methods=["POST"])]), "token")) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for side in SIDES:
            label, times = blobs(side), []
            for _ in range(rounds + 1):  # the first one warms up
                started = time.perf_counter()
                answer = post(connection, port, "token", label)
                times.append(1000 * (time.perf_counter() - started))
                assert answer == label.tobytes(), "the labels came back changed"
            rows.append(f"| labels there and back, {side} px | {span(times[1:])} ms |")
    return rows


def drawn(run: Path, data: Path, results: Path, images: int, rounds: int) -> list[str]:
    """Return rows of a table: seconds from a request to the last of its images, quick and in full."""
    values = {"model_path": str(run), "data_dir": str(data), "results_path": str(results), "open_browser": False}
    with listening(0) as listener:
        studio = Studio(load_config("studio", values), listener)
        thread = threading.Thread(target=studio.run)
        thread.start()
        port, token = listener.getsockname()[1], studio.address.partition("#")[2]
        headers = {"Host": f"127.0.0.1:{port}", "X-ISDM-Token": token}

        def get(path: str) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            connection.request("GET", path, headers=headers)
            return connection.getresponse().read()

        try:
            while (state := json.loads(get("/api/run")))["loading"]:
                time.sleep(0.1)
            label = np.frombuffer(get("/api/pairs/train/0/labels"), np.uint8).reshape(state["size"])
            rows = []
            for steps in (state["sampler"]["quick_steps"], state["sampler"]["steps"]):
                times = []
                for seed in range(rounds + 1):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
                    started = time.perf_counter()
                    answer = post(connection, port, token, label, count=images, steps=steps, seed=seed)
                    told = get(f"/api/draws/{json.loads(answer)['id']}/events")
                    times.append(time.perf_counter() - started)
                    assert b'"done"' in told.splitlines()[-2], told[-200:]
                what = f"{images} images of {'x'.join(map(str, state['size']))} px in {steps} steps, from the request"
                rows.append(f"| {what} | {span(times[1:])} s |")
            return rows
        finally:
            studio.stop()
            thread.join()


def span(values: list[float]) -> str:
    """Return the median of values and, in brackets, the least and the largest."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="side of the images that are drawn")
    parser.add_argument("--images", type=int, default=4, help="how many are drawn at a time")
    parser.add_argument("--folder", type=Path, help="where network and dataset are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        run, data = trained_network(folder, options.size)
        starts = [first_byte(run, data, folder / "results") for _ in range(options.rounds)]
        rows = [
            f"| first byte of the page, from the command | {span([wall for wall, _ in starts])} s |",
            f"| of this, computed | {span([computed for _, computed in starts])} s |",
            *round_trips(options.rounds),
            *drawn(run, data, folder / "results", options.images, options.rounds),
        ]
    load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    print(
        f"\n{date.today()}, {platform.machine()}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads, load "
        f"{load:.1f} a core, {options.rounds} rounds\n\n| what | median (range) |\n|---|---|"
    )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
