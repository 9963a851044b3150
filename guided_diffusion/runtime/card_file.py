"""Cards: Markdown files with metadata that tell what a folder or a file of weights is, and that people may edit.

The last line of a card has a digest of all lines before it: where it does not fit, a person has edited the card, and it
is never written again. A region, between two comments of which the first has a digest of it, can be written anew in an
edited card, too, as long as the region itself was not edited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from guided_diffusion.runtime.files import write_text

DATASET_CARD, MODEL_CARD = "dataset_card.md", "model_card.md"
HUB_CARD = "README.md"
"""What a card is called on the Hugging Face Hub."""
_SEAL = "<!-- written by isdm {}: a card that was edited is never overwritten -->\n"
_SEALED = re.compile(r"(.*\n)<!-- written by isdm ([0-9a-f]{16})[^\n]*-->\n", re.DOTALL)
_REGION = re.compile(
    r"<!-- (?P<name>[a-z]+) (?P<digest>[0-9a-f]{16}) of (?P<state>[0-9a-f]{16}|none) -->\n(?P<body>.*?)"
    r"<!-- end of (?P=name) -->\n",
    re.DOTALL,
)
_SPECIAL = re.compile(r"([\\`*_\[\]#|~<>&])")


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def plain(text: str) -> str:
    """Return text of a user or a file as Markdown that shows it and does nothing else."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _SPECIAL.sub(r"\\\1", words)


def sealed(text: str) -> str:
    """Return the text of a card, which ends in a line break, with the last line that has its digest."""
    return text + _SEAL.format(_digest(text))


def is_untouched(text: str) -> bool:
    """Return whether a card is as it was written."""
    found = _SEALED.fullmatch(text)
    return found is not None and _digest(found[1]) == found[2]


@dataclass(frozen=True)
class Region:
    """A part of a card that is written anew by itself.

    state: a digest of what the body was said of, "none" where it says nothing of a state.
    """

    body: str
    state: str = "none"

    def text(self, name: str) -> str:
        """Return the region between its comments; the body ends in a line break."""
        body = self.body.replace("<!--", "<!\\--")
        return f"<!-- {name} {_digest(body)} of {self.state} -->\n{body}<!-- end of {name} -->\n"


def regions_of(text: str) -> dict[str, Region]:
    """Return the regions of a card that nobody has edited, by name."""
    found = {match["name"]: match for match in _REGION.finditer(text)}
    return {
        name: Region(match["body"], match["state"])
        for name, match in found.items()
        if _digest(match["body"]) == match["digest"]
    }


def with_regions(text: str, regions: Mapping[str, Region]) -> str:
    """Return a card in which regions that nobody has edited are replaced; sealed anew only if it was untouched."""

    def replaced(match: re.Match[str]) -> str:
        untouched = _digest(match["body"]) == match["digest"]
        return regions[match["name"]].text(match["name"]) if untouched and match["name"] in regions else match[0]

    sealing = _SEALED.fullmatch(text) if is_untouched(text) else None
    return _REGION.sub(replaced, text) if sealing is None else sealed(_REGION.sub(replaced, sealing[1]))


def read_card(path: Path) -> str | None:
    """Return the text of a card, None where there is no such text file."""
    with suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8", newline="") as file:
        return file.read()
    return None


def write_card(path: Path, text: str, regions: Mapping[str, Region]) -> bool:
    """Write a card, `text` without its seal, and return True; of one that was edited only `regions`, and return False.

    UserError where it cannot be written.
    """
    before = read_card(path)
    if before is None and path.exists():  # not text, so not ours
        return False
    untouched = before is None or is_untouched(before)
    after = sealed(text) if untouched else with_regions(before or "", regions)
    if after != before:
        write_text(path, after)
    return untouched
