"""Groups of images by their names, and groups that are in train and in test."""

from __future__ import annotations

import pytest

from guided_diffusion.config.load import load_config
from guided_diffusion.data.groups import groups_of, shared_group_problems
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.runtime.errors import ConfigError


def pairs(*stems: str, split: str = "train") -> list[Pair]:
    return [Pair(stem, f"{split}/{stem}.jpg", f"{split}/{stem}.png") for stem in stems]


@pytest.mark.parametrize(
    ("pattern", "stems", "groups"),
    [
        ("", ("a1", "b"), (None, None)),
        (r"tile\d+", ("x_tile1_a", "x_tile1_b", "tile12", "other"), ("tile1", "tile1", "tile12", None)),
        (r"^(\d+)-\d+(-left)?$", ("7-1", "7-2-left", "70-1"), ("7 ", "7 -left", "70 ")),
        (r"^([^/]+)/", ("video/1", "video/2", "3"), ("video", "video", None)),
    ],
)
def test_the_parentheses_name_the_group(pattern: str, stems: tuple[str, ...], groups: tuple[str | None, ...]) -> None:
    assert groups_of(pattern, stems) == groups
    assert groups_of(pattern, ()) == ()


def test_a_pattern_without_any_match_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"group_pattern.*a1"):
        groups_of(r"tile\d", ["a1", "b"])


def test_a_group_in_both_splits_is_found() -> None:
    train, test = pairs("a_1", "a_2", "b_1", "c"), pairs("d_1", "b_2", "b_3", "c", split="test")
    (problem,) = shared_group_problems(r"^(\w)_", test, train)
    assert (problem.path, problem.kind, problem.fatal) == ("test/b_2.jpg", ProblemKind.GROUP_IN_TRAIN, False)
    assert "train/b_1.jpg" in problem.found
    assert "2 of 4 test images" in problem.found
    good = [GoodImage("b_9", "good/b_9.jpg")]
    (problem,) = shared_group_problems(r"^(\w)_", good, train, fatal=True)
    assert (problem.path, problem.fatal) == ("good/b_9.jpg", True)


def test_images_without_a_group_and_groups_of_one_split_are_no_finding() -> None:
    assert shared_group_problems("^(a)_", pairs("c", "d", split="test"), pairs("a_1", "a_2", "c")) == []
    assert shared_group_problems("", pairs("a", split="test"), pairs("a")) == []


@pytest.mark.parametrize("action", ["check", "study", "import"])
@pytest.mark.parametrize("pattern", ["(tile", "[", "*"])
def test_what_is_no_regular_expression_is_refused(pattern: str, action: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(action, {"group_pattern": pattern})
    assert [line for line in caught.value.messages if line.startswith("group_pattern") and "regular expression" in line]


def test_check_warns_of_groups_in_both_splits(lemons, isdm, tmp_path) -> None:
    values = {"data_dir": str(lemons), "dataset_mode": "multi-class", "preview_images": 0}
    for pattern, found in (("(lemon)", True), ("", False)):
        code, shown, errors = isdm("check", **values, group_pattern=pattern, output_dir=str(tmp_path / "checked"))
        assert code == 0, errors
        lines = [line for line in shown.splitlines() if "in train" in line]
        assert bool(lines) == found
    code, _, errors = isdm("check", **values, group_pattern="(tile)", output_dir=str(tmp_path / "checked"))
    assert code == 2
    assert "group_pattern" in errors[0]
