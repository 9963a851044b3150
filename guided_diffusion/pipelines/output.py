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
"""Action -> other actions whose records it may overwrite: it continues their results, or no longer needs them."""

Paths = Mapping[str, Path | Sequence[Path]]
"""Key of the configuration -> the folders that it names."""


@dataclass(frozen=True)
class ReadFolder:
    """A folder that is read, named by `key`; results may lie neither in it nor in one above it up to `top`."""

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
    """Return whether two paths are one folder, links followed, by the file system's own rules of case."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first.resolve() == second.resolve()


def named_folders(paths: Mapping[str, str]) -> list[ReadFolder]:
    """Return the local folders among `paths`, by the keys that name them; results may not lie around them either."""
    local = {key: Path(path).absolute() for key, path in paths.items() if path and "://" not in path}
    return [ReadFolder(key, path, Path(path.anchor)) for key, path in local.items() if not path.is_file()]


def dataset_folders(source: SourceOptions) -> list[ReadFolder]:
    """Return the folders of images, masks and instance maps of each split, and the folder that holds a split's."""
    data_dir, read = source.data_dir, []
    if not data_dir or "://" in data_dir or not source.dataset_mode:
        return read
    mode, top = get_mode(source.dataset_mode), Path(data_dir).absolute()
    for split in ("train", "test"):
        rules = [rule for rule in (mode.images, mode.masks, mode.instances) if rule is not None]
        folders = [Path(mode.folder(rule, top, split)) for rule in rules]
        common = Path(os.path.commonpath(folders))
        read += [ReadFolder("data_dir", folder, top) for folder in (*folders, *([common] if common != top else []))]
    return read


def sample_folders(key: str, root: str | Path, folder: Path) -> list[ReadFolder]:
    """Return the folder of samples that is read for `key`, whose value is `root`."""
    return [ReadFolder(key, folder.absolute(), Path(root).absolute())]


def mask_folder(mask_dir: str) -> list[ReadFolder]:
    """Return the folder of `mask_dir`, if it is set."""
    return _folder("mask_dir", mask_dir)


def image_folder(image_dir: str) -> list[ReadFolder]:
    """Return the folder of `image_dir`, if it is set."""
    return _folder("image_dir", image_dir)


def _folder(key: str, value: str) -> list[ReadFolder]:
    path = Path(value).absolute()
    return [ReadFolder(key, path, path)] if value and "://" not in value else []


def written_by_sample(results_path: str, split: str) -> list[Path]:
    """Return the folders that get files: the first gets classes.json, the second the manifest."""
    folder = Path(results_path) / split
    return [Path(results_path), folder, *(folder / kind for kind in FOLDERS)]


def refuse_written_sources(written: Paths, read: Sequence[ReadFolder]) -> None:
    """Raise ConfigError where a folder of `written` is one that is read, lies in one, or holds its folders."""
    for key, folders in written.items():
        for target in [folders] if isinstance(folders, Path) else folders:
            for source in read:
                how = source.meets(target.absolute())
                if how:
                    line = f"{key}: {target} {how} {source.folder}, which is read by way of {source.key}: results would"
                    raise ConfigError.of_keys((key, f"{line} mix with it; choose another folder"))


def refuse_other_record(key: str, folder: str | Path, action: str) -> None:
    """Raise ConfigError where `folder` has the record of another action, which would be overwritten."""
    there = read_run_record(folder, "environment.json").get("action", action)
    if there != action and there not in CONTINUES.get(action, ()):
        line = f"{key} is {folder}, which holds the results of {there}: choose another folder"
        raise ConfigError.of_keys((key, line))


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
