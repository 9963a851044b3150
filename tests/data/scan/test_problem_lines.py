"""Findings of one cause are merged by folder, and named without it, whatever a system puts between names."""

import ntpath
import posixpath
from types import SimpleNamespace

import pytest

from guided_diffusion.data.scan import problems
from guided_diffusion.data.scan.problems import Problem, ProblemKind, problem_lines


@pytest.mark.parametrize(("paths", "root"), [(posixpath, "/data/set/"), (ntpath, "C:\\data\\set\\")])
def test_the_others_are_told_by_name(paths, root, monkeypatch):
    monkeypatch.setattr(problems, "os", SimpleNamespace(path=paths))
    files = [f"{root}{paths.join(folder, name)}" for folder in ("train", "test") for name in ("a", "b", "c", "d", "e")]
    lines = problem_lines(Problem(file, "is empty", "copy it again", ProblemKind.FOLDER) for file in files)
    assert lines == [
        f"{files[0]}: is empty; copy it again (and 4 more like it: b, c, d, ...)",
        f"{files[5]}: is empty; copy it again (and 4 more like it: b, c, d, ...)",
    ]
