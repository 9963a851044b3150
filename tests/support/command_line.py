"""The command line in this process, for tests and for what they share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from guided_diffusion import cli


@contextmanager
def charts_left_out() -> Iterator[None]:
    """Leave out the drawing of charts, most of the time of a tiny run; what they show is still put together."""
    from matplotlib.figure import Figure

    def save(figure: Figure, target: Any, **options: Any) -> None:
        if hasattr(target, "write"):
            target.write(b"\x89PNG\r\n\x1a\n" if options.get("format") == "png" else "<svg></svg>")
        else:
            Path(target).touch()

    with mock.patch.object(Figure, "savefig", save):
        yield


def arguments_of(action: str, config: str | Path | None = None, **values: Any) -> list[str]:
    """Return the command line of an action with these keys."""
    settings = [f"--set={key}={json.dumps(value, default=str)}" for key, value in values.items()]
    return [action, *(["-c", str(config)] if config else []), *settings]


def run(action: str, config: str | Path | None = None, **values: Any) -> int:
    """Run an action and return its exit code. Charts are not drawn: they have tests of their own."""
    with charts_left_out():
        return cli.main(arguments_of(action, config, **values))
