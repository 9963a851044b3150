"""main.py where the library cannot run: one line, exit code 2; and bugs stay tracebacks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from error_lines import check_error

import guided_diffusion.cli
import main

ROOT = Path(__file__).parents[1]


def test_without_the_environment():
    command = [sys.executable, "-S", "-E", "-B", ROOT / "main.py", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    missing = re.match(r"error: (\w+) ", line)[1]
    assert missing in main.PACKAGES
    check_error(line, missing, "pip install")


def test_an_old_python(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert main.run(["--help"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    check_error(line, "Python 3.11", "3.10")


def test_old_pythons_can_parse_it():
    ast.parse((ROOT / "main.py").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_a_missing_module_of_ours_is_a_bug(monkeypatch):
    def fail(arguments: list[str]) -> int:
        raise ModuleNotFoundError("no", name=arguments[0])

    monkeypatch.setattr(guided_diffusion.cli, "main", fail)
    assert main.run(["torch"]) == 2
    for name in ("guided_diffusion.nothing", "torch.nothing", "nothing"):
        with pytest.raises(ModuleNotFoundError):
            main.run([name])


def test_the_packages_are_those_that_are_needed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, main.OLDEST))

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    needed = {plain(re.match(r"[\w.-]+", each)[0]) for each in project["dependencies"]}
    of = packages_distributions()
    assert {plain(name) for package in main.PACKAGES for name in of[package]} == needed
    assert len(main.PACKAGES) == len(needed)
