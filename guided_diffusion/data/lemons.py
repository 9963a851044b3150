"""The procedural dataset of the quick start: lemons with blemishes, mould and gangrene, and their masks.

A lemon is a height field: the smooth union of three ellipsoids (a body and two tips), lit by one lamp. Its defects are
patches on that surface, so they are foreshortened towards the outline. A picture is drawn at `SUPERSAMPLING` times its
size and averaged down; its mask is taken at the pixel centers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import leftovers, move
from guided_diffusion.runtime.seeding import Stream, derive_seed

CLASSES = ("background", "lemon", "blemish", "mould", "gangrene")
BACKGROUND, LEMON, BLEMISH, MOULD, GANGRENE = range(len(CLASSES))

MARKER = "demo.json"
SUPERSAMPLING = 3  # odd: the middle sample of a block is the center of its pixel
MIN_SIZE = 16

# Each combination of defects is equally frequent: a defect is in half of the pictures, one lemon in eight is healthy.
_COMBINATIONS = tuple(
    tuple(kind for bit, kind in enumerate((BLEMISH, MOULD, GANGRENE)) if number >> bit & 1) for number in range(8)
)
_KINDS = ("images", "masks")
_GOOD = 2  # stream of the good lemons; those of the splits are 0 and 1
_VERSION = 1  # of the drawing; raised when the same parameters give other pictures

# [S, S] unless said otherwise, S = size * SUPERSAMPLING. Lengths are in units of the picture's side, colors in 0..1.
Field = NDArray[np.float32]


def write_demo_dataset(
    folder: str | Path, *, num_train: int = 64, num_test: int = 24, size: int = 96, seed: int = 0
) -> None:
    """Write a dataset of 8-bit RGB images and gray masks of class indices, or keep one of the same parameters.

    The same parameters give the same bytes. The folder appears once it is complete. Raises DataError for counts below
    1, a size below 16, and a folder with other content.
    """
    _refuse_impossible("demo dataset", num_train=num_train, num_test=num_test, size=size, seed=seed)
    counts = {"train": num_train, "test": num_test}
    record = {"version": _VERSION, "num_train": num_train, "num_test": num_test, "size": size, "seed": seed}
    names = [f"{split}/{kind}/{_name(index)}" for split in counts for kind in _KINDS for index in range(counts[split])]

    def write(partial: Path) -> None:
        for number, (split, count) in enumerate(counts.items()):
            _write_pairs(partial / split, number, count, size, seed)
        _write_json(partial / "classes.json", {str(index): name for index, name in enumerate(CLASSES)})

    _write_once(Path(folder).resolve(), record, ["classes.json", *names], write)


def write_good_lemons(folder: str | Path, *, count: int = 24, size: int = 96, seed: int = 0) -> None:
    """Write images of lemons without defects, which no dataset of the same seed has, and masks of their outlines.

    Files, repetition and errors as `write_demo_dataset`, without classes.json.
    """
    _refuse_impossible("good lemons", count=count, size=size, seed=seed)
    record = {"version": _VERSION, "count": count, "size": size, "seed": seed}
    names = [f"{kind}/{_name(index)}" for kind in _KINDS for index in range(count)]
    _write_once(
        Path(folder).resolve(),
        record,
        names,
        lambda partial: _write_pairs(partial, _GOOD, count, size, seed, good=True),
    )


def draw_lemon(
    size: int, defects: tuple[int, ...], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one picture [size, size, 3] and its mask [size, size] of class indices.

    defects: some of BLEMISH, MOULD and GANGRENE. They do not touch the background; each is visible (a blemish only at
    32 pixels or more).
    """
    side = size * SUPERSAMPLING
    shape = _Lemon.draw(rng)
    centers = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(centers, centers)
    u, v = shape.local(x, y)
    depth = shape.depth(u, v)
    height = shape.height(depth)
    patches = _place_defects(shape, defects, rng)
    # The rim keeps a defect more than a pixel inside the outline, in the picture as in the mask.
    fields = {kind: _patch_field(patches[kind], kind, u, v, height, depth - 1.5 / size, rng) for kind in defects}

    color = _peel_color(u / shape.half_length, side, rng)
    relief = height + _peel_relief(side, rng)
    gloss = np.full_like(height, 0.34)
    for kind, inside in fields.items():
        color, relief, gloss = _apply_defect(kind, inside, color, relief, gloss, rng)
    lamp = _lamp(rng)
    lemon = _shade(color, relief, gloss, lamp)
    picture = _mix(_backdrop(shape, x, y, lamp, rng), lemon, _smoothstep(-0.5 / side, 0.5 / side, depth))

    mask = np.where(depth > 0, np.uint8(LEMON), np.uint8(BACKGROUND))
    for kind, inside in fields.items():
        mask[inside > 0] = kind
    center = SUPERSAMPLING // 2
    blocks = picture.clip(0, 1).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
    image = np.round(blocks.mean(axis=(1, 3)) * 255).astype(np.uint8)
    return image, mask[center::SUPERSAMPLING, center::SUPERSAMPLING]


# ---------------------------------------------------------------------------------------------------- files


def _refuse_impossible(what: str, **parameters: int) -> None:
    least = {"size": MIN_SIZE, "seed": 0}
    if any(value < least.get(key, 1) for key, value in parameters.items()):
        found = f"{', '.join(f'{key}={value}' for key, value in parameters.items())} found"
        remedy = f"use counts of at least 1, a size of at least {MIN_SIZE} and a seed of at least 0"
        raise DataError.of(what, found, remedy)


def _write_once(target: Path, record: dict[str, int], names: Sequence[str], write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder with the files `names` under another name, and rename it once it is complete."""
    if _already_written(target, record, names):
        return
    for path in leftovers(target.parent):
        if path.name.startswith(f".{target.name}."):
            shutil.rmtree(path, ignore_errors=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial)
        _write_json(partial / MARKER, record)
        if target.exists():  # an empty folder, which Windows does not let a rename replace
            target.rmdir()
        move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _already_written(target: Path, record: dict[str, int], names: Sequence[str]) -> bool:
    """Return whether `target` holds the files of `record`; DataError if it holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        existing = json.loads((target / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError.of(target, "exists and is not a demo dataset", "choose a new or an empty folder") from None
    if existing != record:
        found = f"holds a demo dataset made with {existing}, but {record} is asked for"
        raise DataError.of(target, found, "delete the folder or choose another one")
    missing = [target / name for name in names if not (target / name).is_file()]
    if missing:
        found = f"demo dataset lacks {len(missing)} of its files (first: {missing[0]})"
        raise DataError.of(target, found, "delete the folder to have it written again")
    return True


def _name(index: int) -> str:
    return f"lemon_{index:04d}.png"


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def _write_pairs(folder: Path, stream: int, count: int, size: int, seed: int, *, good: bool = False) -> None:
    """Write `count` pairs; a picture is a function of (seed, stream, index, size). good: without defects."""
    for kind in _KINDS:
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        block, position = divmod(index, len(_COMBINATIONS))
        order = np.random.default_rng(derive_seed(Stream.DEMO, seed, stream, 0, block)).permutation(len(_COMBINATIONS))
        rng = np.random.default_rng(derive_seed(Stream.DEMO, seed, stream, 1, index))
        image, mask = draw_lemon(size, () if good else _COMBINATIONS[order[position]], rng)
        Image.fromarray(image).save(folder / "images" / _name(index))
        Image.fromarray(mask).save(folder / "masks" / _name(index))


# ----------------------------------------------------------------------------------------------------- form


@dataclass(frozen=True)
class _Lemon:
    """Outline of one lemon; lengths in units of the picture's side."""

    center: tuple[float, float]
    angle: float  # of the long axis, radians
    half_length: float  # of the body, without its tips
    half_width: float
    tips: tuple[tuple[float, float, float], ...]  # (position along the axis, half length, half width) of each

    @staticmethod
    def draw(rng: np.random.Generator) -> _Lemon:
        half_length = rng.uniform(0.32, 0.385)
        half_width = half_length * rng.uniform(0.70, 0.82)
        tips = tuple(
            (end * half_length * 0.96, half_length * rng.uniform(*length), half_width * rng.uniform(*width))
            for end, length, width in ((-1, (0.12, 0.17), (0.24, 0.34)), (1, (0.20, 0.26), (0.24, 0.30)))
        )
        margin = 0.5 - 1.24 * half_length - 0.015  # the whole lemon stays in the picture, however it is turned
        x, y = (0.5 + rng.uniform(-1, 1, 2) * margin).tolist()
        return _Lemon((x, y), rng.uniform(0, 2 * np.pi), half_length, half_width, tips)

    def local(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Return the coordinates along and across the long axis, from the center."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - self.center[0], y - self.center[1]
        return dx * cos + dy * sin, dy * cos - dx * sin

    def depth(self, u: Field, v: Field) -> Field:
        """Return how deep a point lies inside the outline (negative outside), near it about the distance."""
        depth = _ellipse_depth(u, v, self.half_length, self.half_width)
        for position, length, width in self.tips:
            tip = _ellipse_depth(u - position, v, length, width)
            # The larger depth, rounded by a quadratic blend where the two differ little.
            near = np.clip(1 - np.abs(depth - tip) / 0.06, 0, None)
            depth = np.maximum(depth, tip) + near * near * (0.06 / 4)
        return depth

    def height(self, depth: Field) -> Field:
        """Return the height above the plane of the outline: a circle's profile over the depth."""
        flat = 1 - np.clip(depth / self.half_width, 0, 1)
        return self.half_width * np.sqrt(np.clip(1 - flat * flat, 0, None))


def _ellipse_depth(u: Field, v: Field, half_length: float, half_width: float) -> Field:
    return (1 - np.hypot(u / half_length, v / half_width)) * half_width


# -------------------------------------------------------------------------------------------------- defects


def _place_defects(
    lemon: _Lemon, defects: tuple[int, ...], rng: np.random.Generator
) -> dict[int, list[tuple[float, float, float]]]:
    """Return patches (u, v, radius) per defect, apart from each other where there is room."""
    width = lemon.half_width
    placed: list[tuple[float, float, float]] = []
    patches: dict[int, list[tuple[float, float, float]]] = {}
    # The largest first: small spots find room between large patches.
    for kind in sorted(defects, reverse=True):
        count, (low, high), reach = {
            GANGRENE: (1, (0.42, 0.58), 0.50),
            MOULD: (1, (0.38, 0.52), 0.58),
            BLEMISH: (int(rng.integers(4, 7)), (0.12, 0.18), 0.74),
        }[kind]
        patches[kind] = []
        for _ in range(count):
            radius = width * rng.uniform(low, high)
            turn, out = rng.uniform(0, 2 * np.pi, 48), reach * np.sqrt(rng.uniform(0, 1, 48))
            spots = np.stack([lemon.half_length * out * np.cos(turn), width * out * np.sin(turn)], axis=1)
            gap = np.full(len(spots), np.inf)
            for u, v, other in placed:
                gap = np.minimum(gap, np.hypot(spots[:, 0] - u, spots[:, 1] - v) - 1.1 * (radius + other))
            best = int(np.argmax(gap > 0)) if (gap > 0).any() else int(np.argmax(gap))
            placed.append((float(spots[best, 0]), float(spots[best, 1]), float(radius)))
            patches[kind].append(placed[-1])
    return patches


def _patch_field(
    patches: list[tuple[float, float, float]],
    kind: int,
    u: Field,
    v: Field,
    height: Field,
    rim: Field,
    rng: np.random.Generator,
) -> Field:
    """Return a field that is 1 at a patch's center, 0 on its ragged edge, negative outside and where `rim` is.

    Distances between surface points are three-dimensional, which foreshortens patches near the outline.
    """
    side = u.shape[0]
    ragged = {BLEMISH: 0.12, MOULD: 0.16, GANGRENE: 0.18}[kind]
    wobble = _noise(side, 18 if kind == BLEMISH else 7, rng) + 0.5 * _noise(side, 22, rng)
    field = np.full_like(u, -np.inf)
    for center_u, center_v, radius in patches:
        nearest = np.argmin((u - center_u) ** 2 + (v - center_v) ** 2)
        rise = height - height.flat[nearest]
        distance = np.sqrt((u - center_u) ** 2 + (v - center_v) ** 2 + rise * rise)
        field = np.maximum(field, 1 - distance / radius)
    limit = rim / max(radius for *_, radius in patches)
    # Strongest on the edge: the core stays whole, and no islands are torn off outside.
    strength = ragged * np.clip(np.minimum(1 - field, 1 + 3 * field), 0, 1)
    return np.minimum(field + strength * wobble.clip(-1.5, 1.5), limit)


def _apply_defect(
    kind: int, inside: Field, color: Field, relief: Field, gloss: Field, rng: np.random.Generator
) -> tuple[Field, Field, Field]:
    """Return peel color [S, S, 3], relief and gloss with one defect on them; its cover is 1/2 where `inside` is 0."""
    side = inside.shape[0]
    grain = _noise(side, side // 5, rng)
    if kind == BLEMISH:
        cover = _smoothstep(-0.28, 0.28, inside) * 0.92
        spot = _tint(_rgb(172, 92, 34), _rgb(116, 54, 18), _smoothstep(0.0, 0.7, inside))
        return _mix(color, spot, cover), relief - cover * 0.003, gloss * (1 - cover)
    if kind == MOULD:
        cover = _smoothstep(-0.24, 0.24, inside + 0.10 * grain)
        # Spores ripen from the middle: gray-green there, white threads at the edge.
        ripe = _smoothstep(0.14, 0.52, inside + 0.10 * _noise(side, 14, rng))
        fuzz = _tint(_rgb(236, 240, 230), _rgb(112, 150, 128), ripe) * (1 + 0.07 * grain)[..., None]
        swell = cover * 0.008 + 0.0022 * cover * grain
        return _mix(color, fuzz, cover), relief + swell, gloss * (1 - cover)
    cover = _smoothstep(-0.16, 0.16, inside)
    rot = _tint(_rgb(92, 54, 30), _rgb(44, 28, 22), _smoothstep(0.05, 0.55, inside + 0.10 * grain))
    sunken = _smoothstep(-0.1, 0.5, inside) * 0.022 + 0.0016 * cover * _noise(side, 24, rng)
    return _mix(color, rot, cover), relief - sunken, gloss * (1 - 0.75 * cover)


# ---------------------------------------------------------------------------------------- colors and light


def _rgb(red: int, green: int, blue: int) -> Field:
    return np.array([red, green, blue], np.float32) / 255


def _tint(first: Field, second: Field, share: Field) -> Field:
    """Return colors [S, S, 3] between `first` and `second` ([3] each), by the `share` [S, S] of the second."""
    return first + (second - first) * share[..., None]


def _mix(below: Field, above: Field, cover: Field) -> Field:
    """Return [S, S, 3] `above` laid over `below` with opacity `cover` [S, S]."""
    return below + (above - below) * cover[..., None]


def _smoothstep(low: float, high: float, value: Field) -> Field:
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _noise(side: int, cells: int, rng: np.random.Generator) -> Field:
    """Return smooth noise [side, side], about -2..2, with `cells` bumps along a side."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32).clip(-2, 2)
    edge = (1.5, 1.5, cells + 1.5, cells + 1.5)
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC, box=edge))


def _peel_color(along: Field, side: int, rng: np.random.Generator) -> Field:
    """Return yellow to yellow-green [S, S, 3], greener in faint clouds and at the tips (|`along`| near 1)."""
    green = rng.uniform(0.0, 0.55) + 0.30 * _smoothstep(0.70, 1.2, np.abs(along)) + 0.06 * _noise(side, 5, rng)
    return _tint(_rgb(255, 214, 48), _rgb(206, 214, 58), np.clip(green, 0, 1).astype(np.float32))


def _peel_relief(side: int, rng: np.random.Generator) -> Field:
    """Return the height of the dimples of oil glands, and of broader bumps."""
    dimples = np.minimum(_noise(side, 44, rng), 0.4)
    return 0.0016 * dimples + 0.003 * _noise(side, 9, rng)


def _lamp(rng: np.random.Generator) -> Field:
    """Return the unit vector [3] towards the lamp: x right, y down, z to the viewer; from the upper left."""
    turn, rise = np.pi * rng.uniform(1.15, 1.38), rng.uniform(0.85, 1.0)
    return np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)], np.float32)


def _shade(color: Field, relief: Field, gloss: Field, lamp: Field) -> Field:
    """Return the lit surface [S, S, 3]: wrapped diffuse light and a Blinn-Phong highlight (Blinn 1977)."""
    down, right = np.gradient(relief, 1 / relief.shape[0])
    normal = np.stack([-right, -down, np.ones_like(relief)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip((normal @ lamp + 0.25) / 1.25, 0, 1)
    half = lamp + np.array([0, 0, 1], np.float32)
    highlight = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 38
    # Shade turns warm rather than black: light comes back through the peel and off the table.
    light = np.array([0.44, 0.36, 0.30], np.float32) + np.array([0.60, 0.68, 0.72], np.float32) * diffuse[..., None]
    return color * light + (gloss * highlight)[..., None] * _rgb(255, 250, 225)


def _backdrop(lemon: _Lemon, x: Field, y: Field, lamp: Field, rng: np.random.Generator) -> Field:
    """Return the table [S, S, 3]: one blue-gray a picture, a slight fall-off, and the lemon's soft shadow."""
    table = _tint(_rgb(118, 140, 170), _rgb(136, 150, 172), np.full_like(x, rng.uniform(0, 1)))
    fall_off = 1 + 0.10 * ((x - 0.5) * lamp[0] + (y - 0.5) * lamp[1])
    grain = 1 + 0.012 * _noise(x.shape[0], 40, rng)
    reach = np.float32(0.055 / lamp[2])
    depth = lemon.depth(*lemon.local(x + lamp[0] * reach, y + lamp[1] * reach))
    shadow = 1 - 0.42 * _smoothstep(-0.07, 0.05, depth)
    return table * (fall_off * grain * shadow)[..., None]
