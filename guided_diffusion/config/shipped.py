"""The example configs, which an installed package brings along."""

from __future__ import annotations

from pathlib import Path

from guided_diffusion.runtime.files import stays_inside

CONFIGS = "configs"
_PACKAGE = Path(__file__).parents[1]


def shipped_configs() -> Path:
    """Return the folder of the example configs: in an installed package, or in the repository."""
    inside = _PACKAGE / CONFIGS
    return inside if inside.is_dir() else _PACKAGE.parent / CONFIGS


def found_config(path: Path) -> Path:
    """Return `path`, or the example config that it names, as in configs/config_train.json, where there is no such file.

    So the commands of the README work in any folder.
    """
    parts = path.parts
    if path.exists() or path.is_absolute() or parts[:1] != (CONFIGS,) or not stays_inside(path.as_posix()):
        return path
    example = shipped_configs().joinpath(*parts[1:])
    return example if example.is_file() else path
