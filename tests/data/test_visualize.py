"""Pictures: palettes, overlays, grid geometry, atomic files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data import visualize

RED, GREEN, BLUE, PURPLE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 0, 200)


def tile(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def box_of(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the pixels that have `color`."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def ink_of(sheet: Image.Image) -> np.ndarray:
    return (np.asarray(sheet) < 100).all(axis=-1)


class TestPalette:
    @pytest.mark.parametrize("num_classes", [1, 2, 5, 20, 183, 1500])
    def test_has_a_color_per_class_and_one_for_null(self, num_classes: int) -> None:
        palette = visualize.class_palette(num_classes)
        assert palette.shape == (num_classes + 1, 3)
        assert palette.dtype == np.uint8
        assert palette[0].max() < 40, "background is dark"
        assert len(set(palette[-1].tolist())) == 1, "null is gray"

    @pytest.mark.parametrize(("num_classes", "least"), [(5, 80), (20, 50), (183, 15)])
    def test_colors_are_apart(self, num_classes: int, least: float) -> None:
        palette = visualize.class_palette(num_classes).astype(float)
        distance = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
        assert distance[~np.eye(len(palette), dtype=bool)].min() >= least

    def test_color_of_a_class_does_not_depend_on_the_number_of_classes(self) -> None:
        large = visualize.class_palette(183)
        for num_classes in (1, 2, 8, 20):
            np.testing.assert_array_equal(visualize.class_palette(num_classes)[:-1], large[:num_classes])

    def test_result_is_the_callers_to_change(self) -> None:
        visualize.class_palette(4)[:] = 0
        assert visualize.class_palette(4).any()


class TestLabelMaps:
    def test_colorize_looks_up_every_pixel(self) -> None:
        palette = visualize.class_palette(3)
        label = np.array([[0, 1, 2], [3, 3, 0]], np.int64)
        np.testing.assert_array_equal(visualize.colorize(label, palette), palette[label])

    @pytest.mark.parametrize("label", [[[4]], [[-1]], [[0.5]], [0, 1]])
    def test_colorize_refuses_what_is_no_label_map(self, label: list) -> None:
        with pytest.raises(AssertionError):
            visualize.colorize(np.array(label), visualize.class_palette(3))

    def test_legend_has_the_classes_that_are_shown(self) -> None:
        names, palette = ("floor", "wall", "door"), visualize.class_palette(3)
        legend = visualize.legend_of(names, [np.array([[2, 3]]), np.array([[0, 0]])])
        assert legend == [("floor", palette[0].tolist()), ("door", palette[2].tolist())]

    @pytest.mark.parametrize("background", [0, 2])
    def test_overlay_leaves_background_untouched(self, background: int) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (12, 10, 3), np.uint8)
        label = rng.integers(0, 4, (12, 10))
        palette = visualize.class_palette(3)
        mixed = visualize.overlay(image, label, palette, background=background)
        np.testing.assert_array_equal(mixed[label == background], image[label == background])
        low, high = np.minimum(image, palette[label]), np.maximum(image, palette[label])
        assert ((low <= mixed) & (mixed <= high)).all()

    def test_overlay_of_gray_shows_both_the_image_and_the_class(self) -> None:
        image = np.array([[[0], [200]]], np.uint8)
        palette = visualize.class_palette(2)
        dark, bright = visualize.overlay(image, np.ones((1, 2), np.uint8), palette, background=0)[0].astype(int)
        assert (bright - dark == 110).all()
        np.testing.assert_array_equal(dark, np.round(0.45 * palette[1]))

    def test_edges_are_white_on_the_darkened_image(self) -> None:
        image = np.full((2, 2, 3), 101, np.uint8)
        drawn = visualize.draw_edges(image, np.array([[True, False], [False, False]]))
        assert drawn.dtype == np.uint8
        assert drawn[..., 0].tolist() == [[255, 50], [50, 50]]

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
    def test_to_rgb(self, shape: tuple[int, ...]) -> None:
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        rgb = visualize.to_rgb(image)
        assert rgb.shape == (4, 5, 3)
        np.testing.assert_array_equal(rgb, np.broadcast_to(image.reshape(4, 5, -1), (4, 5, 3)))


class TestGrid:
    def test_size_without_titles_is_tiles_and_padding(self) -> None:
        rows = [[tile(6, 8, RED)] * 3] * 2
        assert visualize.grid(rows, scale=2).size == (3 * 16 + 4 * 2, 2 * 12 + 3 * 2)

    def test_tiles_are_where_row_and_column_say(self) -> None:
        colors = [[RED, GREEN], [BLUE, PURPLE]]
        sheet = visualize.grid([[tile(5, 7, c) for c in row] for row in colors], scale=1)
        for r, row in enumerate(colors):
            for c, color in enumerate(row):
                assert box_of(sheet, color) == (2 + 9 * c, 2 + 7 * r, 9 + 9 * c, 7 + 7 * r)

    def test_enlargement_is_nearest_neighbor(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
        sheet = np.asarray(visualize.grid([[image]], scale=5))
        np.testing.assert_array_equal(sheet[2:-2, 2:-2], np.kron(image, np.ones((5, 5, 1), np.uint8)))

    @pytest.mark.parametrize(("side", "shown"), [(32, 128), (48, 144), (64, 128), (96, 96), (256, 256)])
    def test_small_tiles_are_enlarged_by_themselves(self, side: int, shown: int) -> None:
        left, top, right, bottom = box_of(visualize.grid([[tile(side, side, RED)]]), RED)
        assert (right - left, bottom - top) == (shown, shown)

    def test_short_rows_and_mixed_sizes(self) -> None:
        sheet = visualize.grid([[tile(4, 4, RED), tile(8, 6, GREEN)], [tile(4, 4, BLUE)]], scale=1)
        assert sheet.size == (2 + 4 + 2 + 6 + 2, 2 + 8 + 2 + 4 + 2)

    def test_titles_and_legend_go_around_the_tiles(self) -> None:
        sheet = visualize.grid(
            [[tile(32, 32, RED), tile(32, 32, GREEN)]],
            scale=2,
            title="Lemons",
            column_titles=["real", "a title of several lines"],
            row_titles=["first row"],
            legend=[("mould", BLUE), ("gangrene", PURPLE)],
        )
        left, top, right, bottom = box_of(sheet, RED)
        assert (right - left, bottom - top) == (64, 64)
        assert box_of(sheet, BLUE)[1] > bottom, "legend below"
        ink = ink_of(sheet)
        assert ink[:top].any(), "titles above"
        assert ink[top:bottom, :left].any(), "row title at the left"
        assert ink[bottom:].any(), "names in the legend"
        assert not ink[[0, -1]].any(), "text is not cut by the sheet"
        assert not ink[:, [0, -1]].any(), "text is not cut by the sheet"

    def test_long_titles_are_wrapped_and_long_words_widen_the_sheet(self) -> None:
        plain = visualize.grid([[tile(128, 128, RED)]])
        wrapped = visualize.grid([[tile(128, 128, RED)]], title="some short words " * 5)
        assert wrapped.width == plain.width
        assert wrapped.height > plain.height + 40
        word = "unbreakable" * 5
        wide = visualize.grid([[tile(8, 8, RED)]], scale=1, column_titles=[word], title=word, legend=[(word, BLUE)])
        assert wide.width > 300
        assert not ink_of(wide)[:, [0, -1]].any()

    def test_the_legend_takes_as_many_rows_as_its_names_need(self) -> None:
        legend = [(f"class {number}", (number, 0, 200)) for number in range(8)]
        wide, narrow = (visualize.grid([[tile(8, width, RED)]], scale=1, legend=legend) for width in (800, 200))
        assert wide.width == 804
        assert narrow.width < 300
        assert narrow.height > wide.height
        for sheet in (wide, narrow):
            assert all(box_of(sheet, color) for _, color in legend)

    @pytest.mark.parametrize("titles", [{"column_titles": ["a"]}, {"row_titles": ["a", "b"]}])
    def test_refuses_another_number_of_titles(self, titles: dict) -> None:
        with pytest.raises(ValueError, match="zip"):
            visualize.grid([[tile(8, 8, RED)] * 2], **titles)

    @pytest.mark.parametrize("each", [1, 2, 3])
    @pytest.mark.parametrize("groups", [1, 2, 5, 16, 33])
    def test_tiles_in_a_square_stay_in_order_and_groups_in_a_row(self, groups: int, each: int) -> None:
        tiles = [tile(2, 2, (index, 0, 0)) for index in range(groups * each)]
        rows = visualize.in_square(tiles, each)
        assert [shown for row in rows for shown in row] == tiles
        assert all(len(row) % each == 0 for row in rows)
        columns = len(rows[0])
        assert all(len(row) == columns for row in rows[:-1])
        assert len(rows) <= columns < len(rows) + 2 * each


class TestFiles:
    def test_save_makes_folders_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "picture.png"
        for color in (RED, GREEN):
            visualize.save(Image.fromarray(tile(3, 4, color)), str(path))
            with Image.open(path) as image:
                np.testing.assert_array_equal(np.asarray(image), tile(3, 4, color))
        assert [p.name for p in path.parent.iterdir()] == ["picture.png"]

    @pytest.mark.parametrize(("name", "format"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.unknown", "PNG")])
    def test_the_format_is_that_of_the_ending(self, name: str, format: str, tmp_path: Path) -> None:
        visualize.save(Image.fromarray(tile(3, 4, RED)), tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.format == format

    def test_a_failed_save_keeps_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.png"
        visualize.save(Image.fromarray(tile(3, 4, RED)), path)
        before = path.read_bytes()
        with pytest.raises(OSError, match="HSV"):
            visualize.save(Image.new("HSV", (3, 4)), path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
