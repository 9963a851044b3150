"""`python -m scripts...` finds what a script imports: only the root of the project is searched then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmark", "measure")
    for path in (ROOT / "scripts" / folder).glob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.slow
def test_modules_are_imported_from_the_root_alone():
    code = f"import importlib\nfor name in {MODULES}: importlib.import_module(name)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(MODULES) > 30
