"""What `--set key=value` means."""

from __future__ import annotations

import re

import pytest

from guided_diffusion.config.load import ACTIONS, parse_overrides
from guided_diffusion.runtime.errors import ConfigError


def test_overrides_are_json_or_text():
    assert parse_overrides(["a=1", "b=[1,2]", "c=text", 'd="7"', "e=x=y"]) == {
        "a": 1,
        "b": [1, 2],
        "c": "text",
        "d": "7",
        "e": "x=y",
    }
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["novalue"])
    assert "novalue" in str(caught.value)


@pytest.mark.parametrize("given", ["trackers=[mlflow]", "flip_pairs=[[left,right]]"])
def test_quotes_that_the_shell_took_away_are_told(given):
    """Windows PowerShell hands over `'trackers=["mlflow"]'` without them."""
    with pytest.raises(ConfigError, match=rf"^--set {re.escape(given)}: .*double quotes.*: write") as error:
        parse_overrides([given], ACTIONS["train"])
    assert error.value.keys == (given.partition("=")[0],)
    free = ["group_pattern=[a-z]+", "output_dir=[new]", "trackers=[]"]
    assert parse_overrides(free, ACTIONS["train"])["group_pattern"] == "[a-z]+"


@pytest.mark.parametrize("text", ["007", "1e5", "0.9990", "20240501"])
def test_numbers_set_on_the_command_line_keep_their_digits_as_text(text):
    assert parse_overrides([f"output_dir={text}"], ACTIONS["train"]) == {"output_dir": text}
    assert parse_overrides(["batch_size=8", "output_dir=null"], ACTIONS["train"]) == {
        "batch_size": 8,
        "output_dir": None,
    }
