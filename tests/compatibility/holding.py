"""Holding what the code makes now against what was recorded: how near it has to come, and what is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from recording import Record, machine, unpack

SAME = ("torch", "cpu", "capability")
RENAMED = {"memorisation": "near_duplicates", "rivals": "baselines"}
"""Keys of a configuration and what they are called now."""
WIDENED = ("low", "high", "kind", "warnings")
"""What a study says of few test images by Student's t, where it took percentiles of resamples before."""
DIVERGES = ("study", "agreement", "memorisation", "filtered")
"""Parts of a report that rest on segmenters trained for it, which rounding in the last bits sends elsewhere."""


@dataclass(frozen=True)
class Tolerance:
    """How near numbers have to come to the recorded ones.

    tensor: of a projection, in norms of its tensor. floor: the same in absolute terms. weights: of all projections of
    a set of weights together, in its norm. levels, mean: of pixels and of their mean. number: relative, of others.
    """

    exact: bool
    tensor: float
    floor: float
    weights: float
    levels: int
    mean: float
    number: float


SAME_MACHINE = Tolerance(True, tensor=1e-6, floor=1e-8, weights=1e-6, levels=1, mean=0.01, number=1e-6)
"""Torch and CPU are those of the recording: the results were equal bit for bit, whenever they were recorded."""

OTHER_MACHINE = Tolerance(False, tensor=0.1, floor=0.02, weights=3e-3, levels=2, mean=0.05, number=5e-3)
"""Found with ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA set to less than the CPU has, which rounds otherwise.

AdamW makes whole steps out of gradients that are mere rounding: the bias before a normalization of its channel is all
noise (floor). Other tensors were off by 4 %, all together by 7e-4, losses by 3e-4, pixels by 1 level, means by 0.01.
"""


def tolerance_of(recorded: Record, *, libraries: bool = False) -> Tolerance:
    """Return how near this machine has to come to one that recorded; `libraries` have to be the same, too."""
    here = machine()
    keys = (*SAME, "libraries") if libraries else SAME
    return SAME_MACHINE if all(here[key] == recorded[key] for key in keys) else OTHER_MACHINE


def problems_of_run(recorded: Record, found: Record, tolerance: Tolerance) -> list[str]:
    """Return a line for everything of a run folder that is not as recorded; new options and keys are no problem."""
    lines = []
    # The order, too: the optimizer's state is stored by number.
    if list(recorded["shapes"].items()) != list(found["shapes"].items()):
        lines.append("names, order or shapes of the weights differ")
    for name, file in recorded["files"].items():
        theirs = found["files"][name]
        lines += [f"{name}: has no {key}" for key in file["keys"] if key not in theirs["keys"]]
        of_last = recorded["files"]["last.pt"]
        # Earlier versions took the epoch of the lowest loss of its own for the best one: the last may be better now.
        later = theirs["progress"]["best_epoch"] == of_last["progress"]["epoch"] > file["progress"]["best_epoch"]
        position = dict(of_last["progress"] if later else file["progress"])
        position["best_epoch"] = position["epoch"] if later else position["best_epoch"]
        lines += [f"{name}: {line}" for line in problems_of_content(position, theirs["progress"], SAME_MACHINE)]
        # Where the best epoch is the last one, the recording says so in place of the weights.
        ours = _weights(recorded, "last.pt" if later else name)
        off = problems_of_sets(recorded["shapes"], ours, _weights(found, name), tolerance)
        lines += [f"{name}: {line}" for line in off]
    lines += [f"options: {line}" for line in problems_of_content(recorded["options"], found["options"], SAME_MACHINE)]
    lines += [f"metrics: {line}" for line in problems_of_content(recorded["metrics"], found["metrics"], tolerance)]
    lines += _problems_of_pictures(recorded["previews"], found["previews"], tolerance)
    return lines


def _weights(run: Record, name: str) -> Mapping[str, Any]:
    weights = run["files"][name]["weights"]
    return run["files"]["last.pt"]["weights"] if weights == "as last.pt" else weights


def problems_of_sets(
    names: Any, recorded: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance
) -> Iterator[str]:
    """Yield a line for every tensor of every set of weights that is too far from the recorded one."""
    if list(recorded) != list(found):
        yield f"has weights {', '.join(found)}, recorded are {', '.join(recorded)}"
        return
    for key, rows in recorded.items():
        yield from (f"{key}: {line}" for line in problems_of_weights(names, rows, found[key], tolerance))


def problems_of_weights(names: Any, recorded: list[Any], found: list[Any], tolerance: Tolerance) -> Iterator[str]:
    """Yield a line for every tensor that is too far from the recorded one, and for all of them together."""
    if len(recorded) != len(found):
        yield f"has {len(found)} tensors, recorded are {len(recorded)}"
        return
    ours, theirs = (np.array([row[:3] for row in rows], np.float64) for rows in (recorded, found))
    off, norms = np.abs(ours - theirs)[:, 1:].max(1), ours[:, 2]
    for name, distance, norm in zip(names, off, norms, strict=True):
        if not distance <= tolerance.tensor * norm + tolerance.floor:
            yield f"{name} is off by about {distance:.3g}, its norm is {norm:.3g}"
    together = np.sqrt((off**2).sum() / (norms**2).sum())
    if not together <= tolerance.weights:
        yield f"all weights together are off by about {together:.3g} of their norm"


def problems_of_samples(recorded: Record, found: Record, tolerance: Tolerance) -> list[str]:
    """Return a line for everything of a folder of samples that is not as recorded; new settings are no problem."""
    lines = problems_of_content(recorded["settings"], found["settings"], SAME_MACHINE)
    lines += [f"{key} differ" for key in ("manifest", "masks") if recorded[key] != found[key]]
    ours, theirs = (np.array(each["means"]) for each in (recorded, found))
    if ours.shape != theirs.shape:
        return [*lines, f"{len(theirs)} images, recorded are {len(ours)}"]
    off = np.abs(ours - theirs)
    if not off.max() <= tolerance.mean:
        lines.append(f"the mean of image {off.argmax()} is off by {off.max():.3g} levels")
    for number, (before, now) in enumerate(zip(recorded["pixels"], found["pixels"], strict=True)):
        if before["shape"] != now["shape"]:
            lines.append(f"image {number} is {now['shape']}, recorded is {before['shape']}")
        elif not (worst := np.abs(unpack(before).astype(int) - unpack(now)).max()) <= tolerance.levels:
            lines.append(f"image {number} is off by {worst} levels")
    return lines + _problems_of_pictures({"sheet": recorded["sheet"]}, {"sheet": found["sheet"]}, tolerance)


def _problems_of_pictures(recorded: Record, found: Record, tolerance: Tolerance) -> list[str]:
    if recorded.keys() != found.keys():
        return [f"pictures are {', '.join(found)}, recorded are {', '.join(recorded)}"]
    # Elsewhere the letters in them may be drawn otherwise.
    most = tolerance.mean if tolerance.exact else 2.0
    return [
        f"the mean of {name} is {found[name]['mean']}, recorded is {picture['mean']}"
        for name, picture in recorded.items()
        if not abs(picture["mean"] - found[name]["mean"]) <= most
    ]


def problems_of_report(
    recorded: Record, found: Record, tolerance: Tolerance, *, trained: bool = True, few: bool = False
) -> list[str]:
    """Return a line for everything of a report that is not as recorded; new keys are no problem.

    trained: segmenters were trained for it; elsewhere it is then only compared what numbers there are of them. few: it
    has so few test images that later versions widen its intervals: verdicts may then be weaker.
    """
    floor = 1e-9 if tolerance.exact else 0.01  # what is small is made of few pixels
    lines = []
    for path, ours, theirs in pairs_of(recorded, found):
        if few and path[0] == "study" and path[-1] in WIDENED:
            continue  # `narrower` compares them
        alike = _kind(ours) == _kind(theirs)
        diverges = not tolerance.exact and ((trained and path[0] in DIVERGES) or path[-1:] == ("samples",))
        if not alike or not (diverges or near(ours, theirs, tolerance.number, floor)):
            lines.append(f"{'/'.join(path)} is {theirs!r}, recorded is {ours!r}")
    return lines


def narrower(recorded: Record, found: Record) -> list[str]:
    """Return the paths of the intervals of a study that are narrower than the recorded ones."""
    ends = {path: (ours, theirs) for path, ours, theirs in pairs_of(recorded["study"], found["study"])}
    highs = {path[:-1]: ends[path] for path in ends if path[-1:] == ("high",)}
    widths = {
        path: (highs[path][0] - ends[*path, "low"][0], highs[path][1] - ends[*path, "low"][1])
        for path in highs
        if highs[path][0] is not None
    }
    assert widths
    return ["/".join(path) for path, (before, now) in widths.items() if now < before]


def problems_of_content(recorded: Any, found: Any, tolerance: Tolerance) -> list[str]:
    """Return a line for everything of JSON content that is not as recorded; new keys are no problem."""
    return [
        f"{'/'.join(path)} is {theirs!r}, recorded is {ours!r}"
        for path, ours, theirs in pairs_of(recorded, found)
        if not near(ours, theirs, tolerance.number)
    ]


def pairs_of(recorded: Any, found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield (path, recorded, found) of all single values of JSON content; what is missing is found to be "nothing"."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key, value in recorded.items():
            there = found.get(key, found.get(RENAMED.get(key, ""), "nothing"))
            yield from pairs_of(value, there, (*path, key))
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, (ours, theirs) in enumerate(zip(recorded, found, strict=True)):
            yield from pairs_of(ours, theirs, (*path, str(index)))
    elif isinstance(recorded, list) and isinstance(found, list):
        yield path, f"{len(recorded)} entries", f"{len(found)} entries"
    else:
        yield path, recorded, found


def near(recorded: Any, found: Any, relative: float, floor: float = 1e-9) -> bool:
    """Tell whether two values are the same, numbers as far as that is asked for."""
    if _is_sentence(recorded) and _is_sentence(found):
        return True  # that it says something counts, not in which words
    if {_kind(recorded), _kind(found)} != {"number"}:
        return recorded == found
    return abs(recorded - found) <= relative * abs(recorded) + floor


def _kind(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and value.count(" ") > 4
