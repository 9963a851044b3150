"""Messages about mask values of unknown meaning: the values in words, and the remedy.

The remedies are those of the commonest mistakes: 0/255 masks, labels that start at 1, labels spread out for viewing,
antialiased or lossy masks, an undeclared ignore value, colors without a map.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

LISTED = 8
SUGGESTED_COLORS = 24
_LOSSY = (
    "so many {} come from antialiasing or lossy (JPEG) storage: export the masks again as PNG without smoothing, "
    "scaled by nearest neighbor"
)


def describe_values(values: Sequence[int]) -> str:
    """Return values as text: runs as `0..5`, at most 8 parts, then the number of values."""
    ordered = np.sort(np.asarray(values))
    parts: list[str] = []
    for run in np.split(ordered, np.flatnonzero(np.diff(ordered.astype(np.int64)) != 1) + 1):
        parts += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(value) for value in run]
    return ", ".join(parts) if len(parts) <= LISTED else f"{', '.join(parts[:LISTED])}, ... ({len(ordered)} values)"


def unpack_color(code: int) -> tuple[int, int, int]:
    """Return (red, green, blue) of a color packed as 0xRRGGBB."""
    return int(code) >> 16 & 255, int(code) >> 8 & 255, int(code) & 255


def describe_colors(codes: Sequence[int]) -> str:
    """Return packed colors as `(r, g, b)`, at most 8 of them, then their number."""
    shown = ", ".join(str(unpack_color(code)) for code in codes[:LISTED])
    return shown if len(codes) <= LISTED else f"{shown}, ... ({len(codes)} colors)"


def suggest_fix(present: Sequence[int], num_classes: int | None, *, binary: bool) -> str:
    """Return the remedy for masks with the distinct values `present`, not all of which `num_classes` classes cover."""
    values = sorted(int(value) for value in present)
    if binary:
        return _suggest_binary_fix(values)
    if values[-1] > 255 and all(value % 257 == 0 for value in values):
        return "these are 8-bit values scaled to 16 bits: divide them by 257 and save them as 8-bit PNG"
    if len(values) == 2 and values[0] == 0 and values[1] >= (num_classes or 2):
        return (
            f"masks of 0 and {values[1]} are binary: set dataset_mode to binary, or map {values[1]} in classes.json "
            f"({_class_lines(values)})"
        )
    if len(values) > max(16, 2 * (num_classes or 0)):
        return f"{_LOSSY.format('values')}; if they are classes, raise num_classes"
    if num_classes is None and len(values) <= values[-1]:
        lines = _class_lines(values)
        return (
            f"correct the masks if a value is a slip; else map the values in classes.json ({lines}), or set "
            f"num_classes to {values[-1] + 1} if values between them are classes, too"
        )
    if num_classes is None:
        return f"set num_classes to {values[-1] + 1}, or name the classes in classes.json"
    if values[0] > 0 and values[-1] == num_classes:
        return f"labels seem to start at 1: map them in classes.json ({_class_lines(range(1, num_classes + 1))})"
    unexpected = [value for value in values if value >= num_classes]
    if unexpected == [255]:
        return (
            '255 often marks ignored pixels: set ignore_label to 255, or add a class with "value": 255 to classes.json'
        )
    step = values[-1] / (num_classes - 1) if num_classes > 1 else 0
    if step >= 2 and values[-1] >= 128 and all(abs(value / step - round(value / step)) * step < 1 for value in values):
        spread = [round(step * index) for index in range(num_classes)]
        return f"labels seem to be spread out for viewing: map them in classes.json ({_class_lines(spread)})"
    if unexpected == [num_classes]:
        line = f'"{num_classes}": "class {num_classes}"'
        return f"set num_classes to {num_classes + 1}, or list the class in classes.json ({line})"
    ignore = json.dumps({"values": unexpected[:LISTED]})
    return (
        "correct the masks, raise num_classes, or leave the pixels out of all classes: with ignore_label, or with "
        f'"ignore": {ignore} in classes.json'
    )


def _suggest_binary_fix(values: Sequence[int]) -> str:
    if len(values) > 16:
        return _LOSSY.format("values")
    lines = json.dumps({"0": {"name": "background", "value": 0}, "1": {"name": "defect", "values": list(values[1:])}})
    if values[0] != 0:
        lines = _class_lines(values[:2])
    return (
        f"binary masks hold 0 and one other value: map the values in classes.json ({lines}), declare one as "
        "ignore_label, or use dataset_mode multi-class"
    )


def advise_colors(codes: Sequence[int], *, mapped: bool) -> str:
    """Return the remedy for RGB masks of the packed colors `codes`; `mapped`: classes.json has colors."""
    if len(codes) > SUGGESTED_COLORS:
        return f"{_LOSSY.format('colors')}, best as 8-bit gray with the class index"
    if mapped:
        return "add the colors to their classes in classes.json, or to its 'ignore'"
    entries = {str(index): {"name": f"class {index}", "color": unpack_color(code)} for index, code in enumerate(codes)}
    return f"map each color to its class in classes.json: {json.dumps(entries)}"


def _class_lines(values: Sequence[int]) -> str:
    """Return entries of classes.json that map the i-th of `values` to class i; the first two of many."""
    entries = {str(index): {"name": f"class {index}", "value": value} for index, value in enumerate(values)}
    if len(entries) <= LISTED:
        return json.dumps(entries)
    return json.dumps({key: entries[key] for key in ("0", "1")})[:-1] + ", ...}"
