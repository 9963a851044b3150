"""Keys of `study`: amounts and seeds in their spellings, and one line for each contradiction."""

from __future__ import annotations

import pytest

from guided_diffusion.config.load import load_config
from guided_diffusion.config.study import StudyConfig
from guided_diffusion.runtime.errors import ConfigError

REQUIRED = {"data_dir": "a", "dataset_mode": "multi-class", "good_dir": "b", "output_dir": "c", "train_config": "d"}


def config_of(**values) -> StudyConfig:
    return load_config("study", {**REQUIRED, **values})


@pytest.mark.parametrize("amounts", ["20,60,all", [20, 60, None], [60, "all", "20"], " all, 60,20 "])
def test_amounts_in_all_spellings(amounts):
    config = config_of(amounts=amounts, seeds=4)
    assert config.design.repeats == {20: 4, 60: 4, None: 4}
    assert list(config.design.repeats) == [20, 60, None]
    assert load_config("study", config.to_json()) == config


def test_one_amount_and_seeds_of_each():
    assert config_of(amounts="all").design.repeats == {None: 3}
    assert config_of(amounts=20).design.repeats == {20: 3}
    assert config_of(amounts="all,20", seeds="1,2").design.repeats == {20: 2, None: 1}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"arms": "real,plaice"}, "arms"),
        ({"arms": "real,real"}, "arms"),
        ({"arms": ""}, "arms"),
        ({"arms": "real,copy_paste", "repaint_noise": 0.2}, "repaint_noise"),
        ({"amounts": [20, 20]}, "amounts"),
        ({"amounts": [0]}, "amounts"),
        ({"amounts": "many"}, "amounts"),
        ({"amounts": []}, "amounts"),
        ({"seeds": [3, 3]}, "seeds"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": ""}, "seeds"),
        ({"train_config": ""}, "train_config"),
        ({"architectures": "unet,fpn", "other_amount": 30}, "other_amount"),
        ({"architectures": "unet,unet"}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"good_test_dir": "b"}, "good_test_dir"),
        ({"good_dir": ""}, "good_dir"),
        ({"synthetic_share": 1}, "synthetic_share"),
        ({"real_last": 0.2, "steps": 2}, "real_last"),
        ({"real_last": 0.8, "steps": 2}, "real_last"),
        ({"crop": 8}, "crop"),
        ({"place_config": "C:\\study.json"}, "place_config"),
    ],
)
def test_contradictions_are_one_line(values, key):
    with pytest.raises(ConfigError) as error:
        config_of(**values)
    assert error.value.keys == (key,)
    assert len(error.value.messages) == 1


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"pairs": 9, "synthetic_share": 0.4, "real_last": 0.5, "report_images": 3, "good_share": 0.4}, []),
        (
            {"arms": "real_good", "pairs": 9, "inception_weights": "auto", "report_images": 3, "good_share": 0.4},
            [
                "no arm has synthetic images, so pairs, inception_weights are left aside",
                "no arm has defects to show, so report_images is left aside",
            ],
        ),
        (
            {"arms": "sdm", "pairs": 9, "report_images": 3},
            ["no arm has defects to show, so report_images is left aside"],
        ),
        ({"arms": "real", "good_share": 0.4}, ["no arm has good images, so good_share is left aside"]),
        ({"arms": "unaugmented", "vertical_flip": False}, ["no arm is augmented, so vertical_flip is left aside"]),
        ({"other_amount": 20}, ["there is one architecture, so other_amount is left aside"]),
        ({"other_amount": 20, "architectures": "unet,fpn"}, []),
    ],
)
def test_keys_that_no_arm_uses_are_named(values, lines):
    assert config_of(**values).idle == lines


def test_arms_without_a_generator_need_no_config_of_it():
    assert config_of(arms="real,real_good", train_config="").design.arms == ("real", "real_good")
