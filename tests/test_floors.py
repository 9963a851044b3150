"""The rooms of the library import one way only: each floor imports itself and lower ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "guided_diffusion"

FLOORS = (
    ("cli", "actions", "studio"),
    ("pipelines",),
    ("config",),
    ("training", "samples", "features"),
    ("data", "models", "diffusion", "labeling"),
    ("conditions",),
    ("runtime",),
)
APART = ("data", "models", "diffusion", "labeling")
"""Rooms of one floor that never import each other."""
WITH_OPTIONS = ("training", "samples", "features", *APART)
"""Rooms of which a configuration imports the options alone."""
WITHOUT_TORCH = ("cli.py", "config/*.py", "**/options.py", "models/architecture.py", "runtime/errors.py")
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Return the dotted names a file imports, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "guided_diffusion" and len(part) > 1 and part[1] != "__version__"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_is_on_a_floor():
    rooms = {room for floor in FLOORS for room in floor}
    assert {room_of(path) for path in FILES} - {"__init__"} <= rooms
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_floors_import_themselves_and_lower_ones(path):
    room = room_of(path)
    if room == "__init__":
        return
    height = next(index for index, floor in enumerate(FLOORS) if room in floor)
    allowed = {other for floor in FLOORS[height:] for other in floor}
    if room in APART:
        allowed -= set(APART) - {room}
    breaches = rooms_of(imports_of(path)) - allowed
    assert not breaches, f"{path.relative_to(ROOT)} imports {sorted(breaches)}"


def test_only_pipelines_know_the_evaluations():
    for path in FILES:
        if room_of(path) != "pipelines":
            assert not {name for name in imports_of(path) if name.split(".")[0] == "evaluations"}, path


def test_evaluations_stand_alone():
    for path in (ROOT / "evaluations").rglob("*.py"):
        assert not rooms_of(imports_of(path)), f"{path.relative_to(ROOT)} imports guided_diffusion"


def test_the_command_line_answers_without_torch():
    for pattern in WITHOUT_TORCH:
        for path in PACKAGE.glob(pattern):
            assert not {name for name in imports_of(path) if name.split(".")[0] in ("torch", "numpy", "PIL")}, path


def test_configurations_import_options_alone():
    for path in (PACKAGE / "config").glob("*.py"):
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "guided_diffusion" and parts[1] in WITH_OPTIONS:
                assert "options" in parts[2:4] or parts[1:3] == ["models", "architecture"], f"{path} imports {name}"


def test_nothing_is_unpickled():
    for path in [*FILES, *sorted((ROOT / "evaluations").rglob("*.py"))]:
        source = path.read_text(encoding="utf-8")
        assert "pickle" not in {name.split(".")[0] for name in imports_of(path)}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
