"""Masks: from what a file holds to class indices and back, with every value checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from guided_diffusion.data.masks.advice import advise_colors, describe_colors, describe_values, suggest_fix
from guided_diffusion.runtime.errors import DataError

MAX_CLASSES = 32767  # labels are int16 above 255 classes, and one more id is the null id

MaskFormat = Literal["grey8", "grey16", "palette", "rgb"]
Color = tuple[int, int, int]

_FORMATS: dict[str, MaskFormat] = {"1": "grey8", "L": "grey8", "LA": "grey8", "P": "palette", "PA": "palette"}
_FORMATS |= {"RGB": "rgb", "RGBA": "rgb", "I": "grey16", "I;16": "grey16", "I;16L": "grey16", "I;16B": "grey16"}


def pack_colors(colors: ArrayLike) -> np.ndarray:
    """Return RGB colors [..., 3], each 0..255, as 0xRRGGBB, uint32 [...]."""
    red, green, blue = np.moveaxis(np.asarray(colors, np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


@dataclass(frozen=True)
class RawMask:
    """What a mask file holds, before it gets a meaning."""

    kind: MaskFormat
    values: np.ndarray  # unsigned integers of any shape: gray values, palette indices, or colors as 0xRRGGBB
    palette: bytes | None = None  # colors of a palette: r, g, b, r, g, b, ...
    one_bit: bool = False  # black and white, as 0 and 1

    @property
    def class_values(self) -> np.ndarray | None:
        """Gray values or indices; RGB whose three channels agree everywhere is gray; None for real colors."""
        if self.kind != "rgb":
            return self.values
        gray = self.values & 0xFF
        return gray if np.array_equal(gray * np.uint32(0x010101), self.values) else None

    @property
    def colors(self) -> np.ndarray | None:
        """Packed colors, also of palette entries and 8-bit gray; None for 16-bit gray."""
        if self.kind == "rgb":
            return self.values
        if self.one_bit:
            return (self.values > 0) * np.uint32(0xFFFFFF)
        if self.kind == "grey8":
            return self.values.astype(np.uint32) * np.uint32(0x010101)
        if self.kind == "palette":
            return palette_colors(self.palette)[self.values]
        return None


def palette_colors(palette: bytes | None) -> np.ndarray:
    """Return the packed colors of all 256 indices, uint32 [256]; a number that is no color past the palette's end."""
    entries = np.frombuffer((palette or b"")[:768], np.uint8)
    colors = np.full(256, 1 << 24, np.uint32)
    count = len(entries) // 3
    colors[:count] = pack_colors(entries[: 3 * count].reshape(count, 3))
    return colors


def raw_mask(image: Image.Image, source: str) -> RawMask:
    """Return the values, indices or colors of a mask picture, [H, W]; a constant alpha channel is dropped.

    Raises DataError naming `source` for varying alpha, values outside 0..65535, and modes that are not label maps.
    """
    kind = _FORMATS.get(image.mode)
    if kind is None:
        remedy = "save it as 8-bit or 16-bit gray, palette or RGB PNG"
        raise DataError.of(source, f"mask has PIL mode {image.mode}", remedy)
    array = np.asarray(image)
    if image.mode in ("LA", "PA", "RGBA"):
        alpha = array[..., -1]
        if alpha.min() != alpha.max():
            found = f"mask has an alpha channel that varies ({alpha.min()} to {alpha.max()})"
            raise DataError.of(source, f"{found}, so its classes are not certain", "save the mask without alpha")
        array = array[..., 0] if image.mode != "RGBA" else array[..., :3]
    if kind == "rgb":
        return RawMask("rgb", pack_colors(array))
    if kind == "palette":
        return RawMask("palette", array.astype(np.uint8), bytes(image.getpalette("RGB") or ()))
    if image.mode == "I" and (array.min() < 0 or array.max() > 65535):
        raise DataError.of(source, f"mask has values {array.min()} to {array.max()}", "save classes as 0..65535")
    return RawMask(kind, array.astype(np.uint8 if kind == "grey8" else np.uint16), one_bit=image.mode == "1")


def default_names(count: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    return tuple(f"class {index}" for index in range(count))


@dataclass(frozen=True)
class LabelEncoding:
    """Which mask values or colors stand for which class, and how masks are written.

    Of several values or colors of a class the first is written. Ignored ones are read as the null id `num_classes`.
    """

    num_classes: int
    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...] = ()  # gray values or palette indices of each class; () if only colors count
    colors: tuple[tuple[Color, ...], ...] = ()  # of each class; () without a color map
    ignore_values: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    kind: MaskFormat = "grey8"  # of the masks written
    palette: bytes | None = None
    binary: bool = False  # background and one other class

    def __post_init__(self) -> None:
        assert len(self.names) == self.num_classes <= MAX_CLASSES
        assert self.values or self.colors
        assert not self.values or (len(self.values) == self.num_classes and all(self.values))
        assert not self.colors or len(self.colors) == self.num_classes
        assert self.kind != "rgb" or (self.colors and all(self.colors))
        assert self.kind == "rgb" or self.values
        assert self.kind in ("grey16", "rgb") or max(group[0] for group in self.values) <= 255

    @classmethod
    def identity(cls, num_classes: int, names: Sequence[str] | None = None) -> LabelEncoding:
        """Return the encoding in which a value is its class, written as 8-bit gray (16-bit above 256 classes)."""
        kind: MaskFormat = "grey8" if num_classes <= 256 else "grey16"
        values = tuple((index,) for index in range(num_classes))
        return cls(num_classes, tuple(names or default_names(num_classes)), values, kind=kind)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest type that holds `0..num_classes`."""
        return np.uint8 if self.num_classes <= 255 else np.uint16

    def lookup(self, raw: RawMask) -> np.ndarray:
        """Return the class ids of `raw.values`, same shape, int32; -1 for values and colors of unknown meaning."""
        values, label = raw.class_values, None
        if raw.kind == "palette" and self.values and self._palette_table is not None:
            return self._lookup_palette(raw)
        if raw.one_bit and self._white_is_255:
            values = raw.values * np.uint8(255)
        # Colors are only made where they count: of a gray mask of many pixels they take a third of the time.
        if self.colors and (raw.kind == "rgb" or not self.values) and (colors := raw.colors) is not None:
            label = _match(colors, self._color_table)
        # An RGB file that is all gray may as well hold plain values.
        if self.values and values is not None and (label is None or (label < 0).any()):
            label = _match(values, self._value_table)
        return np.full(raw.values.shape, -1, np.int32) if label is None else label

    def _lookup_palette(self, raw: RawMask) -> np.ndarray:
        """Return the class ids of a palette mask: by color where every color is known, else by index.

        -1 where an index has a color of another class.
        """
        colors, own = raw.colors, palette_colors(self.palette)
        by_color, by_index = _match(colors, self._palette_table), _match(raw.values, self._value_table)
        if (by_color >= 0).all():
            # An ignored index past the end of the palette is written in black, which may be a class.
            padded = (by_index == self.num_classes) & (own[raw.values] == 1 << 24)
            return np.where(padded, by_index, by_color)
        # A color of several classes does not tell which, but it does tell that the class is one of these.
        shared = np.isin(colors, self._shared_colors) & (own[raw.values] != colors)
        agree = np.where(by_color < 0, ~shared, by_color == by_index)
        return np.where(agree, by_index, np.int32(-1))

    def reads_by_color(self, raw: RawMask) -> bool:
        """Return whether the colors of a palette mask alone tell its classes."""
        return self._palette_table is not None and bool((_match(raw.colors, self._palette_table) >= 0).all())

    def decode(self, image: Image.Image, source: str) -> np.ndarray:
        """Return the class ids of a mask picture: [H, W] of `dtype` in `0..num_classes`, the last being the null id.

        Raises DataError naming `source`, the values or colors of unknown meaning, and the remedy.
        """
        raw = raw_mask(image, source)
        label = self.lookup(raw)
        if label.min() < 0:
            unexpected = np.unique(raw.values[label < 0])
            raise DataError.of(source, *self.explain(raw.kind, unexpected, np.unique(raw.values)))
        return label.astype(self.dtype)

    def explain(self, kind: MaskFormat, unexpected: np.ndarray, present: np.ndarray) -> tuple[str, str]:
        """Return (what was found, the remedy) for codes of unknown meaning.

        present: all codes of the mask or dataset, from which the commonest mistakes are recognized.
        """
        if kind == "rgb":
            found = f"mask colors {describe_colors(unexpected.tolist())} stand for no class"
            return found, advise_colors(present.tolist(), mapped=bool(self.colors))
        found = f"mask values {describe_values(unexpected)} stand for no class"
        if not self.values:
            return f"{found} (classes.json has colors only)", "add 'value' to the classes in classes.json"
        expected = [value for group in (*self.values, self.ignore_values) for value in group]
        if kind == "palette" and np.isin(unexpected, expected).all():
            found = f"palette indices {describe_values(unexpected)} have colors of other classes"
            return found, "save all masks with one palette, or give each class its color in classes.json"
        found += f" (num_classes is {self.num_classes}; known are {describe_values(expected)})"
        if self.binary or self.values == tuple((index,) for index in range(self.num_classes)):
            remaining = [value for value in present.tolist() if value not in self.ignore_values]
            return found, suggest_fix(remaining, self.num_classes, binary=self.binary)
        return found, "correct the masks, or add the values to their classes or to 'ignore' in classes.json"

    def encode(self, label: np.ndarray | Tensor) -> Image.Image:
        """Return [H, W] class ids in `0..num_classes` as a picture that `decode` reads back.

        Null pixels take the first ignore value or color; DataError if there is none.
        """
        if self.kind == "palette" and not self.reads_back:
            return replace(self, kind="grey8").encode(label)  # decoded by value, whatever the palette
        label = np.asarray(label)
        assert label.ndim == 2
        assert 0 <= label.min() <= label.max() <= self.num_classes
        groups = self.colors if self.kind == "rgb" else self.values
        ignore = self._written_ignore
        if not ignore and (label == self.num_classes).any():
            remedy = "set it, or add 'ignore' to classes.json, before training"
            raise DataError.of("ignore_label", "not set, but a mask to be written has ignored pixels", remedy)
        codes = [group[0] for group in groups] + [ignore[0] if ignore else groups[0][0]]
        image = Image.fromarray(np.array(codes, np.uint16 if self.kind == "grey16" else np.uint8)[label])
        if self.kind == "palette":
            # A full palette: PIL packs fewer entries into fewer bits, which would cut off larger indices.
            image.putpalette((self.palette or b"").ljust(768, b"\0"))
        return image

    @cached_property
    def reads_back(self) -> bool:
        """Whether every class, and the null id if it is written, is decoded from its index in the own palette."""
        groups = (*self.values, *([self._written_ignore] if self._written_ignore else []))
        codes = np.array([group[0] for group in groups], np.uint8)
        palette = (self.palette or b"").ljust(768, b"\0")
        # One color that is known or not decides how a whole mask is read: each class alone, and all together.
        alone = [self.lookup(RawMask("palette", code, palette)) for code in codes[:, None]]
        ids = np.arange(len(codes))
        return np.array_equal(np.concatenate(alone), ids) and np.array_equal(
            self.lookup(RawMask("palette", codes, palette)), ids
        )

    def with_ignore(self) -> LabelEncoding:
        """Return the encoding with a value or color for null pixels: its own, or the largest free one.

        Raises DataError if every value already stands for a class.
        """
        if self._written_ignore:
            return self
        if self.kind == "rgb":
            taken = {color for group in self.colors for color in group}
            gray = next(g for g in range(255, -1, -1) if (g, 255 - g, g) not in taken)
            return replace(self, ignore_colors=((gray, 255 - gray, gray),))
        taken_values = {value for group in self.values for value in group}
        free = next((value for value in range(self._largest, -1, -1) if value not in taken_values), None)
        if free is None:
            found = f"all {self._largest + 1} mask values stand for a class"
            raise DataError.of("num_classes", found, "resize pad needs a free one")
        return replace(self, ignore_values=(free, *self.ignore_values))

    def ignoring(self, value: int | None) -> LabelEncoding:
        """Return the encoding in which the mask value `value` is ignored, too; for None this one.

        Raises DataError if the value stands for a class, or if only colors count.
        """
        if value is None:
            return self
        if not self.values:
            found = f"{value} is a value, but the classes are colors"
            remedy = "leave it out: ignored pixels need a color that classes.json had as 'ignore' in training"
            raise DataError.of("ignore_label", found, remedy)
        for name, group in zip(self.names, self.values, strict=True):
            if value in group:
                found = f"mask value {value} stands for class {name!r}"
                raise DataError.of("ignore_label", found, "give another, or leave it out")
        values, colors = (*self.ignore_values, value), self.ignore_colors
        gray = (value, value, value)
        if self.colors and value <= 255 and all(gray not in group for group in self.colors):
            colors = (*colors, gray)  # RGB files whose channels agree hold values, too
        unique = {"ignore_values": tuple(dict.fromkeys(values)), "ignore_colors": tuple(dict.fromkeys(colors))}
        return replace(self, **unique).with_ignore()

    @property
    def _largest(self) -> int:
        """The largest value that a mask of this form can hold."""
        return 65535 if self.kind == "grey16" else 255

    @property
    def _written_ignore(self) -> tuple[Any, ...]:
        """The ignore colors, or the ignore values that fit the form."""
        if self.kind == "rgb":
            return self.ignore_colors
        return tuple(value for value in self.ignore_values if value <= self._largest)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding in JSON types, for `from_dict`."""
        return asdict(self) | {"palette": None if self.palette is None else self.palette.hex()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> LabelEncoding:
        """Return the encoding that `to_dict` wrote, also from JSON."""
        palette = stored.get("palette")
        fields = {key: _as_tuples(value) for key, value in stored.items()}
        return cls(**fields | {"palette": None if palette is None else bytes.fromhex(palette)})

    @cached_property
    def _value_table(self) -> tuple[np.ndarray, np.ndarray]:
        return _sorted_table((*self.values, self.ignore_values))

    @cached_property
    def _white_is_255(self) -> bool:
        """Whether masks hold 255 and no 1, so that a 1-bit mask is one in black and white."""
        read = {value for group in (*self.values, self.ignore_values) for value in group}
        return 255 in read and 1 not in read

    @cached_property
    def _palette_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Colors that identify classes of palette masks: of classes.json, else of the palette; None without any."""
        if self.colors:
            return self._color_table
        if self.palette is None:
            return None
        shared = set(self._shared_colors)
        unique = [[color for color in group if color not in shared] for group in self._palette_groups]
        return _sorted_table(unique) if any(unique) else None

    @cached_property
    def _palette_groups(self) -> list[set[int]]:
        """The colors that the palette gives to the values of each class, then of the null id."""
        colors = palette_colors(self.palette)
        indices = [[value for value in group if value < 256] for group in (*self.values, self.ignore_values)]
        return [{color for color in colors[group].tolist() if color < 1 << 24} for group in indices]

    @cached_property
    def _shared_colors(self) -> list[int]:
        """Colors that the palette gives to several classes; none where classes.json has the colors."""
        groups = () if self.colors else self._palette_groups
        times = Counter(color for group in groups for color in group)
        return [color for color, count in times.items() if count > 1]

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        groups = (*self.colors, self.ignore_colors)
        return _sorted_table([[int(pack_colors(color)) for color in group] for group in groups])


def edges_from_instances(instance: Tensor) -> Tensor:
    """Return [..., H, W] booleans: True where a pixel's id differs from one of its four neighbors'."""
    edge = torch.zeros_like(instance, dtype=torch.bool)
    rows = instance[..., 1:, :] != instance[..., :-1, :]
    columns = instance[..., :, 1:] != instance[..., :, :-1]
    edge[..., 1:, :] |= rows
    edge[..., :-1, :] |= rows
    edge[..., :, 1:] |= columns
    edge[..., :, :-1] |= columns
    return edge


def _sorted_table(groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return (codes, class of each), sorted by code; `groups` are the codes of each class, then of the null id."""
    entries = sorted((code, index) for index, group in enumerate(groups) for code in group)
    return np.array([code for code, _ in entries], np.int64), np.array([index for _, index in entries], np.int32)


def _match(codes: np.ndarray, table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the class of each code, -1 for codes that are not in the table."""
    sorted_codes, classes = table
    if codes.dtype == np.uint8 and codes.size > 256:
        return _match(np.arange(256), table)[codes]
    position = np.searchsorted(sorted_codes, codes).clip(max=len(sorted_codes) - 1)
    return np.where(sorted_codes[position] == codes, classes[position], np.int32(-1))


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
