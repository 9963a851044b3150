"""Error lines of the command line by what a user needs of them; how they word it is in tests/golden/messages.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def check_error(line: str, subject: str | Path, *shown: Any) -> None:
    """Check that an error line begins with the key or path that it is about, and shows what was found or offered."""
    text, subject = (str(each).replace("\\", "/") for each in (line.removeprefix("error: "), subject))
    assert re.match(rf"{re.escape(subject)}(?![\w/])", text), f"not about {subject}: {text}"
    for each in shown:
        assert str(each).replace("\\", "/") in text, f"does not show {each}: {text}"


def check_errors(lines: list[str], *subjects: str | Path) -> None:
    """Check that there is one line about each subject, in this order, and no other."""
    assert len(lines) == len(subjects), lines
    for line, subject in zip(lines, subjects, strict=True):
        check_error(line, subject)
