"""Weights files of published networks that several files take."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    from random_networks import random_inception

    return random_inception(tmp_path_factory.mktemp("weights") / "inception.pt")


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory) -> Path:
    from random_networks import random_alexnet

    return random_alexnet(tmp_path_factory.mktemp("weights") / "alexnet.pt")
