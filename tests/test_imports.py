"""The rooms of the library import one way only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "guided_diffusion"

BOTTOM = {
    "allocator",
    "architecture",
    "checkpoint",
    "config",
    "distributed",
    "errors",
    "evaluation_options",
    "label_eta",
    "label_options",
    "logs",
    "option_text",
    "options",
    "pictures",
    "seeding",
    "semantic_map",
    "writing",
}
MAY_IMPORT = {
    "cli": {"actions", *BOTTOM},
    "actions": {"training", "data", "models", "diffusion", "actions", *BOTTOM},
    "training": {"data", "models", "diffusion", "training", *BOTTOM},
    "data": {"data", *BOTTOM},
    "models": {"models", *BOTTOM},
    "diffusion": {"diffusion", *BOTTOM},
    **dict.fromkeys(BOTTOM, BOTTOM),
}


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


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_import_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    breaches = rooms_of(imports_of(path)) - MAY_IMPORT[room]
    assert not breaches, f"{path.relative_to(ROOT)} imports {sorted(breaches)}"


def test_only_actions_know_the_evaluations():
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] != "actions":
            assert not {name for name in imports_of(path) if name.split(".")[0] == "evaluations"}, path


def test_evaluations_stand_alone():
    for path in (ROOT / "evaluations").rglob("*.py"):
        assert not rooms_of(imports_of(path)), f"{path.relative_to(ROOT)} imports guided_diffusion"


@pytest.mark.parametrize(
    "file",
    [
        "cli.py",
        "config.py",
        "options.py",
        "evaluation_options.py",
        "label_options.py",
        "option_text.py",
        "architecture.py",
        "errors.py",
    ],
)
def test_the_command_line_answers_without_torch(file):
    assert not {name for name in imports_of(PACKAGE / file) if name.split(".")[0] in ("torch", "numpy", "PIL")}


def test_nothing_is_unpickled():
    for path in [*FILES, *sorted((ROOT / "evaluations").rglob("*.py"))]:
        source = path.read_text(encoding="utf-8")
        assert "pickle" not in {name.split(".")[0] for name in imports_of(path)}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
