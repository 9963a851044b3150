"""The finished trainings of a study on disk, one JSON file each, so that an interrupted study goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from guided_diffusion.config import differing_keys
from guided_diffusion.errors import ConfigError
from guided_diffusion.writing import write_text

SETTINGS = "settings.json"


class StudyResults(MutableMapping[str, dict[str, Any]]):
    """Results by the key of their run; each is a file that is there whole or not at all.

    settings: all that a result depends on beside its key. A folder of other settings is refused, as its results could
        not be compared with new ones.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))  # as they come back from the file

    def begin(self) -> None:
        """Write the settings, or hold them against those of the results that are there.

        Raises ConfigError with a line for each setting that differs.
        """
        path = self.folder / SETTINGS
        if path.exists():
            known = _read(path)
            clashes = differing_keys(self.settings, known, self.settings)
            if clashes:
                raise ConfigError(
                    [
                        f"{key} differs from the study in {self.folder}: {said}; set it back, or choose another "
                        "output_dir"
                        for key, said in clashes.items()
                    ]
                )
        write_text(path, json.dumps(self.settings, indent=2) + "\n")

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key not in self:
            raise KeyError(key)
        return _read(self._path(key))

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        write_text(self._path(key), json.dumps(value) + "\n")

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __contains__(self, key: object) -> bool:
        return self._path(str(key)).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")) if path.name != SETTINGS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is damaged; delete it, and what it held is computed again")
    return content
