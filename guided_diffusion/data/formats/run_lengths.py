"""Masks as run lengths: of COCO (plain and compressed), of CVAT, and of Label Studio's brush."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.components import Component
from guided_diffusion.data.formats.regions import Bits, Painted, refuse_other_size


def mask_of_runs(counts: Sequence[int], size: Size, *, by_column: bool) -> Bits:
    """Return the mask [H, W] of alternating runs of pixels outside and inside, the first one outside.

    by_column: columns come first, as in COCO. ValueError where the runs are not those of so many pixels.
    """
    runs = _checked(counts, size)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[::-1]).T if by_column else flat.reshape(size)


def _checked(counts: Sequence[int], size: Size) -> NDArray[np.int64]:
    runs = np.asarray(counts, np.int64)
    if (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        raise ValueError(f"its runs are {int(runs.sum())} pixels long, not the {size[0] * size[1]} of the mask")
    return runs


@dataclass(frozen=True, eq=False)
class ColumnRuns:
    """The area of runs by column, as COCO has them, in an image of `size`.

    Only the columns that it reaches are made: large images may have hundreds of small objects.
    """

    counts: Sequence[int]
    size: Size

    def paint(self, size: Size) -> Painted:
        refuse_other_size(self.size, size)
        height, runs = self.size[0], _checked(self.counts, self.size)
        ends, inside = runs.cumsum(), np.arange(len(runs)) % 2 == 1
        reached = np.flatnonzero(inside & (runs > 0))
        if not len(reached):
            return Painted(0, 0, np.zeros((height, 0), bool))
        left, right = (ends - runs)[reached[0]] // height, -(-ends[reached[-1]] // height)
        starts, ends = (np.clip(each, left * height, right * height) for each in (ends - runs, ends))
        return Painted(0, int(left), np.repeat(inside, ends - starts).reshape(-1, height).T)


def runs_of_mask(mask: ArrayLike, *, by_column: bool) -> list[int]:
    """Return the alternating runs of a mask [H, W], for `mask_of_runs`."""
    bits = np.asarray(mask, bool)
    flat = np.concatenate([[False], (bits.T if by_column else bits).reshape(-1), [True]])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(starts, prepend=0).tolist()
    # The appended pixel ends the last run outside; one that ends inside is as long as what is left.
    return runs if sum(runs) == bits.size else [*runs, bits.size - sum(runs)]


def runs_of_part(part: Component, size: Size) -> list[int]:
    """Return the runs by column of a part of an image of (height, width).

    Only its columns are looked at: large images may have hundreds of small parts.
    """
    box, (height, width) = part.box, size
    columns = np.zeros((height, box.right - box.left), bool)
    columns[box.top : box.bottom] = part.mask
    runs = runs_of_mask(columns, by_column=True)
    runs[0] += box.left * height
    after = (width - box.right) * height
    if len(runs) % 2:  # the last run is outside
        runs[-1] += after
    elif after:
        runs.append(after)
    return runs


def text_of_runs(counts: Sequence[int]) -> str:
    """Return COCO's compressed form: each run as its difference to the one before the last, 5 bits a character."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text.append(chr((bits | 0x20 * more) + 48))
            if not more:
                break
    return "".join(text)


def runs_of_text(text: str) -> list[int]:
    """Return the runs of COCO's compressed form; ValueError where the text is not such a form."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"its run lengths have the character {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its run lengths end in the middle of a number")
    return counts


def brush_alpha(content: Sequence[int], size: Size) -> NDArray[np.uint8]:
    """Return the alpha [H, W] of a brush mask of Label Studio: RGBA values in the bit stream of thi.ng/rle-pack.

    A head (32 bits: number of values; 5: bits of a value - 1; 4 times 4: bits of a length - 1), then blocks: a bit
    (1: one value, repeated), 2 bits (which length), the length - 1, the values. ValueError where it is not one.
    """
    try:
        data = np.asarray(content, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("its brush mask is not a list of numbers") from error
    if data.ndim != 1 or (data.size and (data.min() < 0 or data.max() > 255)):
        raise ValueError("its bytes are not all in 0..255")
    bits = np.unpackbits(data.astype(np.uint8))
    position = 0

    def number(width: int) -> int:
        nonlocal position
        taken = bits[position : position + width]
        if len(taken) < width:
            raise ValueError("its brush mask is cut short")
        position += width
        return int.from_bytes(np.packbits(taken).tobytes(), "big") >> (-width % 8)

    total, word = number(32), number(5) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"its brush mask has {total} values, not the 4 of each of {size[1]}x{size[0]} pixels")
    if word > 8:
        raise ValueError(f"its brush mask has values of {word} bits")
    lengths = [number(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    weights = 1 << np.arange(word - 1, -1, -1)
    done = 0
    while done < total:
        repeated = number(1)
        length = 1 + number(lengths[number(2)])
        if done + length > total:
            raise ValueError("its brush mask has more values than it says")
        if repeated:
            values[done : done + length] = number(word)
        else:
            if position + length * word > len(bits):
                raise ValueError("its brush mask is cut short")
            block = bits[position : position + length * word].reshape(length, word)
            values[done : done + length] = block @ weights
            position += length * word
        done += length
    return values.reshape(*size, 4)[..., 3]
