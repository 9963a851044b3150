"""Numbers that the command line makes out of a tiny dataset, small enough to be kept and held against later code.

    python tests/compatibility/recording.py OUT.json                  # PYTHONPATH says of which tree
    python tests/compatibility/recording.py --compare RECORDED.json   # bit for bit, else how large the differences are

`--keep FOLDER` works in that folder and leaves all files there. Of the library nothing is used but its command line.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import sys
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from running import EVALUATE, EVALUATED, RUNS, SAMPLE, SAMPLES, Values, isdm, make_dataset, one_thread

from guided_diffusion import cli

Record = dict[str, Any]

DIGITS = 8
"""Significant digits of recorded numbers; what is equal bit for bit is told by the digests beside them."""
LIBRARIES = ("numpy", "pillow", "scipy", "segmentation-models-pytorch", "timm", "torchvision")
TIMINGS = ("images_per_second", "peak_memory_gib")
PLACES = ("data_dir", "output_dir", "resume_checkpoint")


# --------------------------------------------------------------------------------------------- what is recorded


def machine() -> Record:
    """Return what decides whether results can be expected to agree to the last bits."""
    return {
        "torch": torch.__version__,
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def _cpu() -> str:
    """Return the model of the CPU, with the numbers that tell those of one name apart."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    lines = [line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines()]
    known = {key.strip(): value.strip() for key, _, value in lines}
    return ", ".join(known.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))


def rounded(number: float) -> float:
    """Return `number` to DIGITS significant digits."""
    return float(f"{number:.{DIGITS}g}")


def digest(content: bytes) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def _direction(name: str, size: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size)


def tensor_row(name: str, tensor: torch.Tensor) -> list[Any]:
    """Return sum, projection onto a fixed random vector, norm and digest of a tensor.

    Two tensors that differ by d have projections that differ by about the norm of d.
    """
    array = tensor.detach().cpu().contiguous().numpy()
    flat = array.astype(np.float64).ravel()
    numbers = (flat.sum(), (flat * _direction(name, flat.size)).sum(), np.sqrt((flat * flat).sum()))
    return [*(rounded(float(number)) for number in numbers), digest(array.tobytes())]


def describe_checkpoint(path: Path) -> tuple[Record, Record]:
    """Return shapes of all tensors of a checkpoint by name, and rows of its raw and averaged weights."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    sets = {"raw": content["model"], **content["ema"]}
    rows = {rate: [tensor_row(name, value) for name, value in weights.items()] for rate, weights in sets.items()}
    shapes = {name: list(value.shape) for name, value in content["model"].items()}
    return shapes, {"weights": rows, "keys": sorted(content), "progress": _position(content["progress"])}


def _position(progress: Values) -> Record:
    return {key: progress[key] for key in ("epoch", "step", "best_epoch")}


def describe_run(folder: Path) -> Record:
    """Return what a run folder holds: weights, options, metrics and previews."""
    files, shapes = {}, {}
    for name in ("last.pt", "best.pt"):
        shapes, files[name] = describe_checkpoint(folder / name)
    if files["best.pt"]["weights"] == files["last.pt"]["weights"]:
        files["best.pt"]["weights"] = "as last.pt"
    options = json.loads((folder / "config.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "shapes": shapes,
        "files": files,
        "options": {key: value for key, value in options.items() if key not in PLACES},
        "metrics": [_without_timings(line) for line in lines],
        "previews": {path.name: _picture(path) for path in sorted((folder / "previews").glob("*.png"))},
    }


def _without_timings(line: Values) -> Record:
    kept = {key: value for key, value in line.items() if key not in TIMINGS}
    return {key: rounded(value) if isinstance(value, float) else value for key, value in kept.items()}


def _picture(path: Path) -> Record:
    pixels = pixels_of(path)
    return {"mean": rounded(float(pixels.mean())), "digest": digest(pixels.tobytes())}


def pixels_of(path: Path) -> np.ndarray:
    """Return the values of a picture as they are in the file."""
    with Image.open(path) as image:
        return np.asarray(image)


def describe_samples(folder: Path, whole: int = 2) -> Record:
    """Return what a folder of samples holds; of the first `whole` images all pixels."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        line["source_mask"] = Path(line["source_mask"]).name
        del line["checkpoint"]  # a digest of a file that has timings in it
    own = ("index", "image", "mask", "source_mask", "source_digest", "seed")
    images = {line["image"]: pixels_of(folder / line["image"]) for line in lines}
    return {
        "settings": {key: value for key, value in lines[0].items() if key not in own},
        "manifest": [[line[key] for key in own] for line in lines],
        "means": [rounded(float(pixels.mean())) for pixels in images.values()],
        "images": [digest(pixels.tobytes()) for pixels in images.values()],
        "masks": [digest(pixels_of(folder / line["mask"]).tobytes()) for line in lines],
        "pixels": [pack(pixels) for pixels in list(images.values())[:whole]],
        "sheet": _picture(folder / "contact_sheet.png") if (folder / "contact_sheet.png").exists() else None,
    }


def pack(pixels: np.ndarray) -> Record:
    """Return uint8 pixels as JSON can hold them."""
    return {"shape": list(pixels.shape), "base64": base64.b64encode(pixels.tobytes()).decode()}


def unpack(packed: Values) -> np.ndarray:
    """Return the pixels that `pack` took."""
    return np.frombuffer(base64.b64decode(packed["base64"]), np.uint8).reshape(packed["shape"])


def describe_report(path: Path, root: Path) -> Record:
    """Return a report.json without what tells of the machine: places, versions, digests of files with timings."""
    report = json.loads(path.read_text())
    del report["versions"], report["data"]["checkpoint"]
    return _portable(report, root)


def _portable(value: Any, root: Path) -> Any:
    """Return JSON content with rounded numbers and paths below `root` relative to it."""
    if isinstance(value, dict):
        return {key: _portable(each, root) for key, each in value.items()}
    if isinstance(value, list):
        return [_portable(each, root) for each in value]
    if isinstance(value, str):
        for place in (root.resolve(), root.absolute(), root):
            value = value.replace(f"{place}{os.sep}", "")
        return value
    return rounded(value) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------------- the recording


def record_check(root: Path) -> list[str]:
    """Return the lines of the report that `check` writes of the dataset."""
    # eta_scale asks for the column of eta; its value is the default.
    values = {"dataset_mode": "multi-class", "image_size": 16, "output_dir": str(root / "check"), "eta_scale": 0.284}
    isdm("check", data_dir=str(root / "data"), **values)
    return _portable((root / "check" / "report.txt").read_text().splitlines(), root)


def record_runs(root: Path) -> Record:
    """Train all RUNS below `root`, where the dataset is, and describe them."""
    found = {}
    for name, (action, values) in RUNS.items():
        more = {"resume_checkpoint": str(root / values["resume_checkpoint"])} if "resume_checkpoint" in values else {}
        isdm(action, **{**values, **more, "data_dir": str(root / "data"), "output_dir": str(root / name)})
        found[name] = describe_run(root / name)
    return found


def record_samples(root: Path) -> Record:
    """Sample all SAMPLES from the runs below `root` and describe them."""
    found = {}
    for name, (run, values) in SAMPLES.items():
        folder = root / "samples" / name.replace(" ", "_")
        places = {"model_path": str(root / run), "data_dir": str(root / "data"), "results_path": str(folder)}
        isdm("sample", **{**SAMPLE, **values, **places})
        found[name] = describe_samples(folder)
    return found


def record_evaluation(root: Path) -> Record:
    """Sample from the training masks, evaluate that, and return the report."""
    samples, output = root / "synthetic", root / "evaluate"
    places = {"model_path": str(root / "train"), "data_dir": str(root / "data"), "results_path": str(samples)}
    isdm("sample", **{**EVALUATED, **places})
    isdm("evaluate", data_dir=str(root / "data"), synthetic_dir=str(samples), output_dir=str(output), **EVALUATE)
    return describe_report(output / "report.json", root)


def record(root: Path) -> Record:
    """Return everything that is recorded, made in the empty folder `root` on the CPU."""
    make_dataset(root / "data")
    with one_thread():
        return {
            "machine": machine(),
            "check": record_check(root),
            "runs": record_runs(root),
            "samples": record_samples(root),
            "evaluation": record_evaluation(root),
        }


# ---------------------------------------------------------------------------------------------------- comparing


def differences(recorded: Any, found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, float, float]]:
    """Yield (item, place in it, absolute and relative difference) of all that differs; inf where it is no number."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        if "base64" in recorded and "base64" in found and recorded["shape"] == found["shape"]:
            recorded, found = unpack(recorded).ravel().tolist(), unpack(found).ravel().tolist()
        else:
            for key in {**recorded, **found}:
                yield from differences(recorded.get(key), found.get(key), (*path, key))
            return
    if isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, (ours, theirs) in enumerate(zip(recorded, found, strict=True)):
            yield from differences(ours, theirs, (*path, str(index)))
    elif recorded != found:
        numbers = all(isinstance(each, int | float) for each in (recorded, found))
        off = abs(recorded - found) if numbers else float("inf")
        size = max(abs(recorded), abs(found)) if numbers else 1.0
        yield "/".join(path[:3]), "/".join(path[3:]), off, off / size


def print_comparison(recorded: Record, found: Record) -> bool:
    """Print whether two recordings are equal, else the largest differences of each item; return whether they are."""
    ours, theirs = ({key: value for key, value in each.items() if key != "machine"} for each in (recorded, found))
    if recorded["machine"] != found["machine"]:
        print(f"recorded on {recorded['machine']}\nfound on {found['machine']}")
    items: dict[str, list[tuple[str, float, float]]] = {}
    for item, place, absolute, relative in differences(ours, json.loads(json.dumps(theirs))):
        items.setdefault(item, []).append((place, absolute, relative))
    for item, places in items.items():
        numbers = [each for each in places if np.isfinite(each[1])]
        others = [place for place, absolute, _ in places if not np.isfinite(absolute)]
        absolute, relative = (max((each[index] for each in numbers), default=0.0) for index in (1, 2))
        print(f"{item}: {len(numbers)} numbers differ, by at most {absolute:.3g} ({relative:.3g} relative)", end="")
        print(f"; {len(others)} others, such as {others[0]}" if others else "")
    print("DIFFERENT" if items else "EQUAL bit for bit")
    return not items


def main(arguments: list[str] | None = None) -> int:
    """Record into a file, or compare with one; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="file to write")
    parser.add_argument("--compare", type=Path, metavar="RECORDED", help="file to hold the numbers against")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="empty folder to work in, which is kept")
    options = parser.parse_args(arguments)
    if options.out is None and options.compare is None:
        parser.error("give a file to write, or --compare")
    print(f"running the library in {Path(cli.__file__).parents[1]}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = record(folder)
    if options.out is not None:
        options.out.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    return 0 if options.compare is None or print_comparison(json.loads(options.compare.read_text()), found) else 1


if __name__ == "__main__":
    sys.exit(main())
