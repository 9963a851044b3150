"""What every card of a folder of pairs has to fulfill."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import DatasetCard

from guided_diffusion.runtime.card_file import DATASET_CARD, is_untouched


def check_card(folder: Path, count: int, *shown: str, synthetic: bool = True) -> str:
    """Check the card of a folder of `count` pairs, which shows these texts; return its text."""
    path = folder / DATASET_CARD
    text = path.read_text(encoding="utf-8")
    assert is_untouched(text)
    data = DatasetCard.load(path).data
    assert data.pretty_name.split(": ")[1].split()[0] == str(count)
    assert data.size_categories == ["n<1K"]
    assert ("synthetic" in data.tags) == synthetic
    assert data.license is None
    for each in shown:
        assert each in text, f"{each} is not in {text}"
    for place in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd())):
        assert f"{place}/" not in text, f"a path of this machine is in {text}"
    return text
