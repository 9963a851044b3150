"""What the image size and the network demand of each other."""

from __future__ import annotations

from collections.abc import Iterator

from guided_diffusion.models.architecture import architecture_problems
from guided_diffusion.runtime.options import OptionGroup, Problem


class ArchitectureChecks(OptionGroup):
    """Contradictions between the image size and the network, for actions that build one."""

    def contradictions(self) -> Iterator[Problem]:
        keys = ("num_channels", "num_res_blocks", "num_heads", "num_heads_upsample", "num_head_channels")
        sizes = {key: getattr(self, key) for key in keys}
        if self.image_size is not None and None not in sizes.values():
            for line in architecture_problems(
                image_size=self.image_size,
                channel_mult=self.channel_mult,
                attention_resolutions=self.attention_resolutions,
                **sizes,
            ):
                yield (line.partition(" ")[0], line)
