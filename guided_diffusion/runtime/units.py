"""Numbers with their units, in words."""

from __future__ import annotations


def size_in_words(size: float) -> str:
    """Return a number of bytes: "120 bytes", "24 KiB", "512 MiB", "1.5 GiB"."""
    if size < 2**10:
        return f"{size:.0f} bytes"
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
