"""Tap: a place of the UNet whose features are read."""

from __future__ import annotations

from typing import Literal, NamedTuple

Part = Literal["encoder", "middle", "decoder"]


class Tap(NamedTuple):
    """A block, by the published numbering: of `input_blocks`, `middle_block` (block 0) or `output_blocks`.

    inputs: what the block takes, in the decoder with the skip appended, in place of what it makes.
    """

    part: Part
    block: int
    inputs: bool = False

    def __str__(self) -> str:
        return f"{self.part}.{self.block}{'.input' if self.inputs else ''}"
