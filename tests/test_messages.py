"""The error lines that users meet most read as they are written down in golden/messages.json.

After rewording one: `PYTHONPATH=. python tests/support/record_messages.py`.
"""

from __future__ import annotations

import json

import pytest
from record_messages import GOLDEN, MISTAKES, record

RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    return record(tmp_path_factory.mktemp("messages"))


def test_every_message_is_written_down():
    assert list(RECORDED) == list(MISTAKES)


@pytest.mark.parametrize("name", RECORDED)
def test_a_line_reads_as_written_down(name, found):
    assert found[name] == RECORDED[name]
