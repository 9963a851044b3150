"""Numbers with their units, in words."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return "1 pair of masks", "2 pairs of masks"; plural: where the first word takes more than an s."""
    first, space, rest = noun.partition(" ")
    return f"{count} {noun if count == 1 else plural or f'{first}s{space}{rest}'}"


def size_in_words(size: float) -> str:
    """Return a number of bytes: "120 bytes", "24 KiB", "512 MiB", "1.5 GiB"."""
    if size < 2**10:
        return f"{size:.0f} bytes"
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
