"""What is said of the data of a training, in words that may be published."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided_diffusion.pipelines.training_source import last_name, source_text, training_source
from guided_diffusion.runtime.checkpoint import BEST, LAST, Checkpoint, load_checkpoint


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/tiles", "tiles"), ("/home/me/tiles/", "tiles"), ("C:\\Users\\me\\tiles", "tiles"),
        ("gs://bucket/tiles", "tiles"), ("", ""), (".", Path.cwd().name), ("..", Path.cwd().parent.name),
    ],
)  # fmt: skip
def test_of_a_path_only_the_last_name_is_told(path, name):
    assert last_name(path) == name


def test_a_run_tells_what_it_was_trained_on(trained):
    best, last = (training_source(load_checkpoint(trained / name)) for name in (BEST, LAST))
    assert best == last
    assert (best["name"], best["pairs"], best["images"], best["good_images"]) == ("lemons", 8, 0, 0)
    assert len(best["digest"]) == 16
    assert source_text(best) == f"lemons, 8 pairs, digest {best['digest']}"


def test_weights_of_others_tell_nothing():
    assert training_source(Checkpoint(Path("nowhere.pt"), {})) == {}
    assert source_text({}) == "not recorded in these weights"
    hostile = Checkpoint(Path("nowhere.pt"), {}, trained_on={"name": "a|b\n# c", "pairs": "many", "digest": 5})
    assert source_text(training_source(hostile)) == "a\\|b \\# c, digest 5"
