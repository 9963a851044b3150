"""`studio`: a local page on which masks are painted, images drawn of them, and the good ones kept."""

from __future__ import annotations

import os
import signal
import sys

from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.studio.server import serve


def run(config: StudioConfig) -> int:
    """Serve the page until Ctrl-C."""
    try:
        serve(config)
    except KeyboardInterrupt as stop:
        # Python would wait for threads in the midst of work, and take seconds to take torch apart.
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(128 + getattr(stop, "signal_number", signal.SIGINT))
    return 0


def plan(config: StudioConfig) -> list[str]:
    """Return what the page would work with; UserError where it could not be opened."""
    from guided_diffusion.pipelines.studio.workplace import Workplace

    facts = Workplace.open(config).facts()
    height, width = facts["size"]
    splits = ", ".join(f"{split['count']} pairs of {split['name']}" for split in facts["splits"]) or "no pairs"
    head = f"{width} x {height} px, {len(facts['classes'])} classes, {splits}, {facts['goods']} good images"
    return [head, *(f"without {each['what']}: {each['why']}" for each in facts["missing"])]
