from __future__ import annotations

import pytest

from guided_diffusion.data.modes import MODES, UNLABELED, FileRule, get_mode
from guided_diffusion.runtime.errors import ConfigError


@pytest.mark.parametrize("name", ["binary", "lemon-binary"])
def test_aliases_name_the_same_record(name):
    assert get_mode(name).name == "binary"


def test_names_are_unique():
    names = [name for mode in MODES for name in (mode.name, *mode.aliases)]
    assert len(names) == len(set(names))


def test_unknown_mode_names_the_nearest():
    with pytest.raises(ConfigError) as error:
        get_mode("multiclass")
    assert error.value.path == "dataset_mode"
    assert "'multiclass'" in error.value.found
    assert "'multi-class'" in error.value.remedy


def test_rule_strips_the_stem_suffix_and_passes_other_files_over():
    rule = FileRule("gtFine/{split}", (".png",), "_labelIds")
    assert rule.stem("aachen/a_000_labelIds.png") == "aachen/a_000"
    assert rule.stem("aachen/a_000_labelIds.PNG") == "aachen/a_000"
    assert rule.stem("aachen/a_000_color.png") is None
    assert rule.stem("aachen/a_000_labelIds.json") is None
    assert rule.stem("no_dot") is None


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_published_modes_say_which_classes_are_unlabeled(mode):
    assert mode.unlabeled == tuple(index for index, name in enumerate(mode.names) if name in UNLABELED)


@pytest.mark.parametrize(("name", "unlabeled"), [("multi-class", (1,)), ("ade20k", (150,))])
def test_names_count_only_where_the_mode_does_not_know_the_classes(name, unlabeled):
    assert get_mode(name).unlabeled_classes(["background", "unlabeled", "defect"]) == unlabeled
