from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances, raw_mask
from guided_diffusion.runtime.errors import DataError

PLAIN = LabelEncoding.identity(4)


def stored(image: Image.Image) -> Image.Image:
    """Return the image after a passage through a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image.open(file)


def gray_png(path, depth: int, rows: list[bytes], width: int) -> None:
    """Write a gray PNG of fewer than 8 bits a pixel, which PIL itself cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@st.composite
def encodings(draw) -> LabelEncoding:
    """Return encodings of every kind, with several values a class and ignored ones."""
    kind = draw(st.sampled_from(["grey8", "grey16", "palette", "rgb"]))
    count = draw(st.integers(1, 6))
    highest = {"grey16": 65535, "rgb": 0xFFFFFF}.get(kind, 255)
    codes = draw(st.lists(st.integers(0, highest), min_size=2 * count + 2, max_size=2 * count + 2, unique=True))
    groups = tuple(tuple(codes[2 * i : 2 * i + 2]) for i in range(count + 1))
    names = tuple(f"c{i}" for i in range(count))
    if kind == "rgb":
        colors = tuple(tuple((c >> 16, c >> 8 & 255, c & 255) for c in group) for group in groups)
        return LabelEncoding(count, names, colors=colors[:-1], ignore_colors=colors[-1], kind="rgb")
    palette = bytes(range(30)) if kind == "palette" else None
    return LabelEncoding(count, names, groups[:-1], ignore_values=groups[-1], kind=kind, palette=palette)


@given(encodings(), st.integers(0, 2**32 - 1))
def test_what_is_written_reads_back(encoding, seed):
    label = np.random.default_rng(seed).integers(0, encoding.num_classes + 1, (5, 7)).astype(encoding.dtype)
    image = stored(encoding.encode(label))
    assert raw_mask(image, "m").kind == encoding.kind
    np.testing.assert_array_equal(encoding.decode(image, "m"), label)


@given(encodings())
def test_dictionary_survives_json(encoding):
    assert LabelEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


@given(encodings(), st.integers(0, 2**32 - 1))
def test_every_value_of_a_class_reads_as_the_class(encoding, seed):
    if encoding.kind != "grey16":
        return
    groups = (*encoding.values, encoding.ignore_values)
    label = np.random.default_rng(seed).integers(0, len(groups), (4, 4))
    values = np.array([group[1] for group in groups], np.uint16)[label]
    np.testing.assert_array_equal(encoding.decode(Image.fromarray(values), "m"), label)


def test_palette_masks_are_read_by_index_not_by_color():
    mask = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    mask.putpalette([9, 9, 9, 3, 3, 3, 1, 1, 1, 200, 0, 0])
    np.testing.assert_array_equal(PLAIN.decode(stored(mask), "m"), [[0, 1], [2, 3]])


def test_palette_masks_are_read_by_color_where_only_colors_are_known():
    encoding = LabelEncoding(2, ("a", "b"), colors=(((0, 0, 0),), ((255, 0, 0),)), kind="rgb")
    mask = Image.fromarray(np.array([[0, 1]], np.uint8))
    mask.putpalette([255, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(encoding.decode(mask, "m"), [[1, 0]])
    np.testing.assert_array_equal(encoding.decode(Image.fromarray(np.zeros((1, 2), np.uint8)), "m"), [[0, 0]])


def test_bilevel_rgb_gray_and_constant_alpha_are_gray_values():
    label = np.array([[0, 1], [1, 0]], np.uint8)
    for image in (
        Image.fromarray(label.astype(bool)),
        Image.fromarray(np.stack([label] * 3, -1)),
        Image.fromarray(np.stack([label, np.full_like(label, 255)], -1)),
        Image.fromarray(np.stack([label, label, label, np.full_like(label, 7)], -1)),
    ):
        np.testing.assert_array_equal(PLAIN.decode(image, "m"), label)


@pytest.mark.parametrize(("depth", "rows"), [(4, [b"\x01\x23", b"\x32\x10"]), (2, [b"\x1b", b"\xe4"])])
def test_gray_of_few_bits_is_not_stretched(tmp_path, depth, rows):
    gray_png(tmp_path / "m.png", depth, rows, 4)
    np.testing.assert_array_equal(PLAIN.decode(open_mask(tmp_path / "m.png"), "m"), [[0, 1, 2, 3], [3, 2, 1, 0]])


def test_sixteen_bit_values():
    encoding = LabelEncoding.identity(400)
    label = np.array([[0, 300], [399, 400]], np.uint16)
    assert encoding.dtype is np.uint16
    np.testing.assert_array_equal(encoding.decode(stored(Image.fromarray(label[:1])), "m"), label[:1])
    with_ignore = replace(encoding, ignore_values=(65535,))
    np.testing.assert_array_equal(with_ignore.decode(stored(with_ignore.encode(label)), "m"), label)


def test_null_pixels_need_an_ignore_value():
    with pytest.raises(DataError) as error:
        PLAIN.encode(np.array([[0, 4]], np.uint8))
    assert error.value.path == "ignore_label"


def test_one_more_value_of_no_class():
    gray = Image.fromarray(np.array([[0, 3, 9]], np.uint8))
    for encoding in (PLAIN, replace(PLAIN, ignore_values=(7,))):
        more = encoding.ignoring(9)
        assert more.decode(gray, "m").tolist() == [[0, 3, 4]]
        assert np.asarray(more.encode(np.array([[4]]))).item() == (encoding.ignore_values or (9,))[0]
        assert more.ignoring(9) == more == more.ignoring(None)
    # RGB files whose channels agree hold values, too.
    colors = tuple(((value,) * 3,) for value in range(4))
    more = replace(PLAIN, kind="rgb", colors=colors).ignoring(9)
    assert more.decode(gray.convert("RGB"), "m").tolist() == [[0, 3, 4]]
    assert stored(more.encode(np.array([[4]]))).getpixel((0, 0)) == (9, 9, 9)
    # But where that color is a class's, it stays so.
    white = replace(PLAIN, kind="rgb", colors=(*colors[:3], ((255, 255, 255),))).ignoring(255)
    assert (255, 255, 255) not in white.ignore_colors
    assert white.decode(stored(white.encode(np.array([[3, 4]]))), "m").tolist() == [[3, 4]]
    # A value that masks of this form cannot hold is read all the same; another one is written.
    written = np.asarray(PLAIN.ignoring(300).encode(np.array([[4]]))).item()
    assert written == 255
    for encoding, value, found in ((PLAIN, 3, "'class 3'"), (replace(more, values=()), 9, "colors")):
        with pytest.raises(DataError) as error:
            encoding.ignoring(value)
        assert error.value.path == "ignore_label"
        assert str(value) in error.value.found
        assert found in error.value.found


GRAY = np.zeros((4, 4), np.uint8)


def gray(*values: int, dtype=np.uint8) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize(
    ("image", "found", "remedy"),
    [
        (gray(0, 255), "values 255 ", "dataset_mode to binary"),
        (gray(1, 2, 3, 4), "values 4 ", '"0": {"name": "class 0", "value": 1}'),
        (gray(0, 1, 2, 255), "values 255 ", "ignore_label to 255"),
        (gray(0, 85, 170, 255), "values 85, 170, 255 ", '"1": {"name": "class 1", "value": 85}'),
        (gray(0, 1, 2, 3, 4), "values 4 ", "num_classes to 5"),
        (gray(0, 3, 9), "values 9 ", "raise num_classes"),
        (gray(0, 257, 514, dtype=np.uint16), "values 257, 514 ", "divide them by 257"),
        (gray(*range(0, 200, 4)), "(49 values)", "JPEG"),
        (
            Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8)),
            "(0, 0, 0), (255, 0, 0)",
            '"1": {"name": "class 1", "color": [255, 0, 0]}',
        ),
        (Image.fromarray(np.dstack([GRAY, np.arange(16, dtype=np.uint8).reshape(4, 4)])), "0 to 15", "alpha"),
        (Image.new("CMYK", (2, 2)), "CMYK", "PNG"),
        (Image.fromarray(np.array([[-1, 3]], np.int32)), "-1 to 3", "0..65535"),
    ],
)
def test_unexpected_masks_are_explained_in_one_line(image, found, remedy):
    with pytest.raises(DataError) as caught:
        PLAIN.decode(image, "m")
    error = caught.value
    assert error.path == "m"
    assert found in error.found
    assert remedy in error.remedy
    assert "\n" not in str(error)


def test_deep_color_is_refused(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + struct.pack(">HHH", 1, 1, 1))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(DataError) as error:
        open_mask(tmp_path / "m.png")
    assert error.value.path == str(tmp_path / "m.png")
    assert "16 bits" in error.value.found


def test_edges_mark_both_sides_of_a_boundary():
    edge = edges_from_instances(torch.tensor([[1, 1, 2], [1, 1, 1], [1, 1, 1]]))
    assert edge.tolist() == [[False, True, True], [False, False, True], [False, False, False]]
