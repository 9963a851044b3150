"""What to tell the user about mask values that stand for no class: how they look, and the remedy.

The mistakes are the ones that users of segmentation tools make most: 0/255 masks, labels that start at 1, labels spread
or scaled for viewing, antialiased or lossy masks, an ignore label that was not declared, colors without a map.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

LISTED = 8
SUGGESTED_COLORS = 24


def describe_values(values: Sequence[int]) -> str:
    """Return sorted values as text: runs as `0..5`, at most 8 parts, then how many there are."""
    ordered = sorted(int(value) for value in values)
    runs: list[list[int]] = []
    for value in ordered:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(value) for value in run]
    return ", ".join(parts) if len(parts) <= LISTED else f"{', '.join(parts[:LISTED])}, ... ({len(ordered)} values)"


def unpack_color(code: int) -> tuple[int, int, int]:
    """Return (red, green, blue) of a color packed as 0xRRGGBB."""
    return int(code) >> 16 & 255, int(code) >> 8 & 255, int(code) & 255


def describe_colors(codes: Sequence[int]) -> str:
    """Return packed colors as `(r, g, b)`, at most 8 of them, then how many there are."""
    shown = ", ".join(str(unpack_color(code)) for code in codes[:LISTED])
    return shown if len(codes) <= LISTED else f"{shown}, ... ({len(codes)} colors)"


def suggest_fix(present: Sequence[int], num_classes: int | None, *, binary: bool) -> str:
    """Return the remedy for masks whose distinct values are `present`, which `num_classes` classes do not explain."""
    values = sorted(int(value) for value in present)
    if binary:
        return _advise_binary(values)
    if values[-1] > 255 and all(value % 257 == 0 for value in values):
        return "these are 8-bit values scaled to 16 bits: divide them by 257 and save them as 8-bit PNG"
    if len(values) == 2 and values[0] == 0 and values[1] >= (num_classes or 2):
        return (
            f"masks of 0 and {values[1]} are binary: set dataset_mode to binary, or map {values[1]} in classes.json "
            f"({_map_line([0, values[1]])})"
        )
    if len(values) > max(16, 2 * (num_classes or 0)):
        return (
            "so many values come from antialiasing or lossy (JPEG) storage: export the masks again as PNG without "
            "smoothing, scaled by nearest neighbor; if they are classes, raise num_classes"
        )
    if num_classes is None:
        return f"set num_classes to {values[-1] + 1}, or name the classes in classes.json"
    if values[0] > 0 and values[-1] == num_classes:
        return f"labels seem to start at 1: map them in classes.json ({_map_line(range(1, num_classes + 1))})"
    unexpected = [value for value in values if value >= num_classes]
    if unexpected == [255]:
        return (
            '255 often marks ignored pixels: set ignore_label to 255, or give it a class in classes.json ("value": 255)'
        )
    step = values[-1] / (num_classes - 1) if num_classes > 1 else 0
    if step >= 2 and values[-1] >= 128 and all(abs(value / step - round(value / step)) * step < 1 for value in values):
        spread = [round(step * index) for index in range(num_classes)]
        return f"labels seem to be spread out for viewing: map them in classes.json ({_map_line(spread)})"
    if unexpected == [num_classes]:
        return f"set num_classes to {num_classes + 1}, or map {num_classes} in classes.json"
    return "correct the masks, raise num_classes, or map the values in classes.json or ignore_label"


def _advise_binary(values: Sequence[int]) -> str:
    if len(values) > 16:
        return (
            "so many values come from antialiasing or lossy (JPEG) storage: export the masks again as PNG without "
            "smoothing, scaled by nearest neighbor"
        )
    line = json.dumps({"0": {"name": "background", "value": 0}, "1": {"name": "defect", "values": list(values[1:])}})
    if values[0] != 0:
        line = _map_line(values[:2])
    return (
        "binary masks hold 0 and one other value: map the values in classes.json "
        f"({line}), declare one as ignore_label, or use dataset_mode multi-class"
    )


def advise_colors(codes: Sequence[int], *, mapped: bool) -> str:
    """Return the remedy for RGB masks; `codes` are their packed colors, `mapped` tells if there is a color map."""
    if len(codes) > SUGGESTED_COLORS:
        return (
            "so many colors come from antialiasing or lossy (JPEG) storage: export the masks as PNG without "
            "smoothing, best as 8-bit gray with the class index"
        )
    if mapped:
        return "add the colors to their classes in classes.json, or to its 'ignore'"
    entries = {str(index): {"name": f"class {index}", "color": unpack_color(code)} for index, code in enumerate(codes)}
    return f"say in classes.json which class each color stands for: {json.dumps(entries)}"


def _map_line(values: Sequence[int]) -> str:
    """Return lines of classes.json that map the i-th of `values` to class i, shortened in the middle."""
    entries = {str(index): {"name": f"class {index}", "value": value} for index, value in enumerate(values)}
    if len(entries) <= LISTED:
        return json.dumps(entries)
    first = dict(list(entries.items())[:2])
    return json.dumps(first)[:-1] + ", ...}"
