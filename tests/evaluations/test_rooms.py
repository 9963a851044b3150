"""The rooms of evaluations/ import one way only: each floor imports itself and lower ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "evaluations"
FLOORS = (
    ("metrics", "study", "defect_copies", "mask_statistics", "fold_scores"),
    ("segmentation", "report"),
    (
        "origins",
        "symmetry",
        "published_weights",
        "blending",
        "seams",
        "defect_looks",
        "mask_novelty",
        "mask_features",
    ),
    ("objects", "sets", "whole_images", "groups", "errors"),
)
FREE = ("evaluations.metrics.segmentation",)
"""Counts and scores, which import nothing: for all."""
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.name != "__init__.py"]


def own_imports(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {module for module in modules if module.split(".")[0] == "evaluations"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_floors_import_themselves_and_lower_ones(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    height = next(index for index, floor in enumerate(FLOORS) if room in floor)
    allowed = {other for floor in FLOORS[height:] for other in floor}
    assert {module.split(".")[1] for module in own_imports(path) if module not in FREE} <= allowed


def test_scores_import_nothing():
    assert not own_imports(ROOT / "metrics" / "segmentation.py")
