"""What is recorded has no charts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from command_line import charts_left_out


@pytest.fixture(scope="module", autouse=True)
def _no_charts() -> Iterator[None]:
    with charts_left_out():
        yield
