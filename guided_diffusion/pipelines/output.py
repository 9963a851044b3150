"""The folder an action writes into: never one that it reads from, and never two processes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.lock import folder_lock
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.samples.manifest import FOLDERS

CONTINUES = {"train": ("finetune", "check"), "finetune": ("train", "check")}
"""Action -> other actions whose records it may overwrite: it goes on with their results, or needs them no more."""

Paths = Mapping[str, Path | Sequence[Path]]
"""Key of the configuration -> the folder, or folders, that it stands for."""


@dataclass(frozen=True)
class ReadFolder:
    """A folder that is read, which the key `key` names; nothing is written into it, nor beside it as far as `top`."""

    key: str
    folder: Path
    top: Path

    def meets(self, target: Path) -> str:
        """Return how `target` meets the folder, or one above it up to `top`: "is", "holds", "lies in", or ""."""
        if _same(target, self.folder):
            return "is"
        above = [path for path in self.folder.parents if len(path.parts) >= len(self.top.parts)]
        if any(_same(target, path) for path in above):
            return "holds"
        return "lies in" if any(_same(path, self.folder) for path in target.resolve().parents) else ""


def _same(first: Path, second: Path) -> bool:
    """Return whether two paths are one folder: through links, and where the file system does not tell case apart."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first.resolve() == second.resolve()


def dataset_folders(source: SourceOptions) -> list[ReadFolder]:
    """Return the folders of images, masks and instances of every split, and those of the splits that have one."""
    data_dir, found = source.data_dir, []
    if not data_dir or "://" in data_dir or not source.dataset_mode:
        return found
    mode, top = get_mode(source.dataset_mode), Path(data_dir).absolute()
    for split in ("train", "test"):
        rules = [rule for rule in (mode.images, mode.masks, mode.instances) if rule is not None]
        folders = [Path(mode.folder(rule, top, split)) for rule in rules]
        common = Path(os.path.commonpath(folders))
        found += [ReadFolder("data_dir", folder, top) for folder in (*folders, *([common] if common != top else []))]
    return found


def sample_folders(key: str, root: str | Path, folder: str | Path | None = None) -> list[ReadFolder]:
    """Return what is read of samples in `folder`, by default the root itself; `root` is what the key `key` says."""
    top = Path(root).absolute()
    return [ReadFolder(key, Path(folder or root).absolute(), top)]


def mask_folder(mask_dir: str) -> list[ReadFolder]:
    """Return the folder of masks alone, if there is one."""
    path = Path(mask_dir).absolute()
    return [ReadFolder("mask_dir", path, path)] if mask_dir and "://" not in mask_dir else []


def written_by_sample(results_path: str, split: str) -> list[Path]:
    """Return the folders that get files: classes.json goes into the first, the manifest into the second."""
    folder = Path(results_path) / split
    return [Path(results_path), folder, *(folder / kind for kind in FOLDERS)]


def refuse_written_sources(written: Paths, read: Sequence[ReadFolder]) -> None:
    """Raise ConfigError where a folder of `written` is one that is read, lies in one, or holds its folders."""
    for key, folders in written.items():
        for target in [folders] if isinstance(folders, Path) else folders:
            for source in read:
                how = source.meets(target.absolute())
                if how:
                    raise ConfigError(
                        f"{key}: {target} {how} {source.folder}, which is read from {source.key}: results would mix "
                        "with it; choose another folder"
                    )


def refuse_other_record(key: str, folder: str | Path, action: str) -> None:
    """Raise ConfigError where `folder` holds what another action wrote, whose record would be overwritten."""
    there = read_run_record(folder, "environment.json").get("action", action)
    if there != action and there not in CONTINUES.get(action, ()):
        raise ConfigError(f"{key} is {folder}, which holds the results of {there}: choose another folder")


@contextmanager
def output_of(action: str, folders: Sequence[str | Path], world: ProcessGroup) -> Iterator[None]:
    """Be the only run that writes into `folders` while the block runs.

    The main process has the locks. Raises InUseError in every process where another run writes there.
    """
    distinct = dict.fromkeys(Path(folder).resolve() for folder in folders)
    with ExitStack() as held:
        world.run_on_main(lambda: [held.enter_context(folder_lock(folder, action)) for folder in distinct] and None)
        yield
        # Others may still be writing.
        world.barrier()
