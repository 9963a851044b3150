"""`doctor`: what this machine has, whether it computes right, and how fast."""

from __future__ import annotations

from guided_diffusion.config.doctor import DoctorConfig
from guided_diffusion.pipelines.doctor.examine import examine, titled, write_page
from guided_diffusion.pipelines.output import refuse_other_record
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.launcher import launched_as
from guided_diffusion.runtime.memory import keep_freed_memory

FAILED = 1
"""The exit code where something does not work that should."""


def run(config: DoctorConfig) -> int:
    """Examine the machine and print the page; of several processes only the first does so."""
    if launched_as()[0] > 0:
        return 0
    device = choose_device(config.compute.device)
    if device.type == "cpu":
        keep_freed_memory()  # as every action does: it changes the times
    if config.output_dir:
        refuse_other_record("output_dir", config.output_dir, "doctor")
    parts = examine(config, device)
    text = titled(parts)
    print(text)  # first, as it took minutes and may not be written
    for path in write_page(text, parts, config.output_dir) if config.output_dir else ():
        print(f"  {path}")
    return FAILED if any(part.failed for part in parts) else 0
