"""Layout files: what is read of them, and one line for each mistake, with file and entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guided_diffusion.data.boxes.asked import shares_of
from guided_diffusion.data.boxes.layout_file import layout_file_schema, read_layout_file
from guided_diffusion.data.boxes.layouts import LayoutMaker, LayoutRules
from guided_diffusion.data.boxes.placed_layouts import LayoutPlacer
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

SCHEMA = Path(__file__).parents[3] / "configs/schema/layouts.json"
NAMES = ("background", "scratch", "spot")
SPOT = {"class": "spot", "box": [0.1, 0.2, 0.5, 0.6]}


def placer(*, resize: str = "crop", max_objects: int = 3, background: bool = True) -> LayoutPlacer:
    rules = LayoutRules(max_objects=max_objects, background=background)
    transform = JointTransform((16, 16), resize, train=False)
    return LayoutPlacer(LayoutMaker(3, (1, 2), 4, rules=rules), transform)


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def shares(*objects: Any, **more: Any) -> dict[str, Any]:
    return {"units": "shares", "layouts": [{"name": "a", "objects": list(objects), **more}]}


def pixels(*objects: Any, size: Any = (40, 80)) -> dict[str, Any]:
    return {**shares(*objects), "units": "pixels", "size": list(size)}


def test_shares_are_those_of_the_image(tmp_path):
    path = write(tmp_path / "l.json", shares(SPOT, {"class": 1, "box": [0, 0, 1, 1], "style_seed": 5}))
    (layout,) = read_layout_file(path, NAMES, placer())
    assert layout.stem == "a"
    assert [(each.class_id, each.box, each.number, each.style_seed) for each in layout.objects] == [
        (0, (0, 0, 1, 1), 0, None),
        (2, (0.1, 0.2, 0.5, 0.6), 1, None),
        (1, (0, 0, 1, 1), 2, 5),
    ]


@pytest.mark.parametrize("inside", [(0, 16, 5, 11), (3, 13, 0, 16), (1, 2, 3, 4), None])
def test_where_the_picture_is_in_the_image(tmp_path, inside):
    more = {} if inside is None else {"inside": list(shares_of(inside, (16, 16)))}
    (layout,) = read_layout_file(write(tmp_path / "l.json", shares(SPOT, **more)), NAMES, placer(resize="pad"))
    assert layout.inside == inside


def test_backgrounds(tmp_path):
    given = {"class": "scratch", "style_seed": 3}
    for background, found in (("spot", (2, None)), (0, (0, None)), (given, (1, 3))):
        (layout,) = read_layout_file(write(tmp_path / "l.json", shares(background=background)), NAMES, placer())
        assert [(each.class_id, each.style_seed) for each in layout.objects] == [found]
    (layout,) = read_layout_file(write(tmp_path / "l.json", shares(SPOT)), NAMES, placer(background=False))
    assert [each.number for each in layout.objects] == [1]


@pytest.mark.parametrize(
    ("resize", "box", "inside"),
    [
        ("squash", (0.5, 0.25, 0.75, 0.5), None),
        ("crop", (0.5, 0.25, 1.0, 0.5), None),
        ("pad", (0.5, 0.375, 0.75, 0.5), (4, 12, 0, 16)),
    ],
)
def test_pixels_are_placed_as_pictures_are(tmp_path, resize, box, inside):
    path = write(tmp_path / "l.json", pixels({"class": "spot", "box": [40, 10, 60, 20]}))
    (layout,) = read_layout_file(path, NAMES, placer(resize=resize))
    assert layout.objects[1].box == pytest.approx(box)
    assert layout.inside == inside


def test_layouts_without_names_are_numbered(tmp_path):
    path = write(tmp_path / "l.json", {"units": "shares", "layouts": [{"objects": []}, {"objects": [SPOT]}]})
    assert [layout.stem for layout in read_layout_file(path, NAMES, placer())] == ["layout_000000", "layout_000001"]


def test_what_sticks_out_a_little_is_cut_off(tmp_path):
    path = write(tmp_path / "l.json", shares({"class": "spot", "box": [-0.02, 0.5, 0.5, 1.03]}))
    (layout,) = read_layout_file(path, NAMES, placer())
    assert layout.objects[1].box == (0, 0.5, 0.5, 1)


FAULTS = {
    "no file": (None, ""),
    "broken": ('{"units": "shares", "layouts": [', ""),
    "a list": ([SPOT], ""),
    "no units": ({"layouts": [{"objects": [SPOT]}]}, ""),
    "other units": ({"units": "percent", "layouts": [{"objects": [SPOT]}]}, ""),
    "no layouts": ({"units": "shares"}, ""),
    "empty layouts": ({"units": "shares", "layouts": []}, ""),
    "unknown key of the file": ({**shares(SPOT), "unit": "pixels"}, ""),
    "layout without objects": ({"units": "shares", "layouts": [{"name": "a"}]}, "layout a"),
    "layout as a list": ({"units": "shares", "layouts": [[SPOT]]}, "layout number 1"),
    "unknown key of a layout": (shares(SPOT, backgroud="spot"), "layout a"),
    "no size": ({**shares(SPOT), "units": "pixels"}, "layout a"),
    "wrong size": (pixels(SPOT, size=(40, 0)), "layout a"),
    "size of shares": ({**shares(SPOT), "size": [40, 80]}, "layout a"),
    "two of one name": ({"units": "shares", "layouts": [{"name": "a", "objects": []}] * 2}, "layout a"),
    "a name outside": ({"units": "shares", "layouts": [{"name": "../a", "objects": []}]}, "layout ../a"),
    "a hidden name": ({"units": "shares", "layouts": [{"name": "parts/.a", "objects": []}]}, "layout parts/.a"),
    "a name of Windows": ({"units": "shares", "layouts": [{"name": "c:a", "objects": []}]}, "layout c:a"),
    "unknown class": (shares({**SPOT, "class": "spott"}), "layout a: object number 1"),
    "unknown number": (shares(SPOT, {**SPOT, "class": 3}), "layout a: object number 2"),
    "background as an object": (shares({**SPOT, "class": "background"}), "layout a: object number 1"),
    "unknown background": (shares(SPOT, background="steel"), "layout a: background"),
    "three numbers": (shares({**SPOT, "box": [0, 0, 1]}), "layout a: object number 1"),
    "no box": (shares({"class": "spot"}), "layout a: object number 1"),
    "text in a box": (shares({**SPOT, "box": [0, 0, 1, "x"]}), "layout a: object number 1"),
    "width and height": (shares({**SPOT, "box": [0.6, 0.6, 0.2, 0.2]}), "layout a: object number 1"),
    "no area": (shares({**SPOT, "box": [0.6, 0.6, 0.6, 0.8]}), "layout a: object number 1"),
    "outside": (shares({**SPOT, "box": [1.1, 0, 1.2, 1]}), "layout a: object number 1"),
    "pixels as shares": (shares({**SPOT, "box": [10, 10, 20, 20]}), "layout a: object number 1"),
    "over the border": (pixels({**SPOT, "box": [10, 10, 20, 60]}), "layout a: object number 1"),
    "no number": (shares({**SPOT, "box": [0, 0, float("nan"), 1]}), "layout a: object number 1"),
    "negative seed": (shares({**SPOT, "style_seed": -1}), "layout a: object number 1"),
    "seed as text": (shares({**SPOT, "style_seed": "7"}), "layout a: object number 1"),
    "inside of pixels": ({**shares(inside=[0, 0, 1, 1]), "units": "pixels", "size": [9, 9]}, "layout a"),
    "inside backwards": (shares(SPOT, inside=[0.5, 0, 0.2, 1]), "layout a: inside"),
    "too many": (shares(*[SPOT] * 4), "layout a"),
    "cut off": (pixels({"class": "spot", "box": [0, 10, 15, 20]}), "layout a: object number 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_one_line_with_file_and_entry(tmp_path, fault):
    content, entry = FAULTS[fault]
    path = str(tmp_path / "l.json") if content is None else write(tmp_path / "l.json", content)
    with pytest.raises(DataError) as caught:
        read_layout_file(path, NAMES, placer())
    assert len(caught.value.messages) == 1, caught.value.messages
    assert caught.value.messages[0].startswith(f"{path}: {entry}{': ' if entry else ''}")
    assert "; " in caught.value.messages[0]


@pytest.mark.parametrize("value", [2.0, True, None])
def test_a_class_that_is_neither_name_nor_number_is_shown(tmp_path, value):
    with pytest.raises(DataError) as caught:
        read_layout_file(write(tmp_path / "l.json", shares({**SPOT, "class": value})), NAMES, placer())
    assert f"object number 1: class is {json.dumps(value)}; " in caught.value.messages[0]


def test_a_background_that_the_model_has_not(tmp_path):
    with pytest.raises(DataError) as caught:
        read_layout_file(write(tmp_path / "l.json", shares(background="spot")), NAMES, placer(background=False))
    assert caught.value.messages[0].startswith(f"{tmp_path / 'l.json'}: layout a: ")


def test_all_mistakes_at_once(tmp_path):
    wrong = {
        "units": "shares",
        "layouts": [{"objects": [{**SPOT, "class": 7}, SPOT]}, {"objects": [{**SPOT, "box": []}]}],
    }
    with pytest.raises(DataError) as caught:
        read_layout_file(write(tmp_path / "l.json", wrong), NAMES, placer())
    entries = ["layout number 1: object number 1", "layout number 2: object number 1"]
    assert [line.split(": ", 1)[1].startswith(e) for line, e in zip(caught.value.messages, entries, strict=True)] == [
        True
    ] * 2


def test_the_schema_is_that_of_the_reader():
    written = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert written == layout_file_schema(), "run: python -m scripts.write_options"
    assert set(written["$defs"]["ObjectRecord"]["properties"]) == {"class", "box", "style_seed"}
    assert written["required"] == ["units", "layouts"]
