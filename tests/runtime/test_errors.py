"""Errors that carry what their line says."""

from __future__ import annotations

import pickle

from guided_diffusion.runtime.errors import DataError


def test_fields_make_the_line_and_survive_a_process() -> None:
    error = pickle.loads(pickle.dumps(DataError.of("a: b.png", "it is empty", "copy it again")))
    assert error.messages == ("a: b.png: it is empty; copy it again",)
    assert (error.path, error.found, error.remedy) == ("a: b.png", "it is empty", "copy it again")


def test_lines_survive_a_process() -> None:
    error = pickle.loads(pickle.dumps(DataError(["one", "two"], collective=True)))
    assert error.messages == ("one", "two")
    assert error.collective
    assert error.path == ""
