"""The finished trainings of a study on disk, one JSON file each, so that an interrupted study resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from guided_diffusion.pipelines.comparison import refuse_other_run
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import remove_leftovers, write_text
from guided_diffusion.runtime.options import Problem

SETTINGS = "settings.json"
OF = "of"
"""In the file of a result: a digest of its key, settings and data, as files are copied between folders and renamed."""
_AGAIN = "delete it, and what it held is computed again"


class StudyResults(MutableMapping[str, dict[str, Any]]):
    """Results by the key of their run, each in a file that is written atomically.

    settings: the options that a result depends on. digests: of the data, by name. A folder or a result of others is
    refused, as it cannot be compared with new ones; without any, nothing is. what: the results in words.
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], digests: Mapping[str, str], what: str = "study"
    ):
        self.folder, self.what = Path(folder), what
        self.digests = dict(digests)
        # Settings and digests in one, as settings.json and report.json have them, in JSON types.
        self.record = json.loads(json.dumps({**settings, **digests}))

    def begin(self) -> None:
        """Write the settings, or compare them with those of the results that exist.

        Raises ConfigError for settings that differ, and for results without settings.
        """
        path = self.folder / SETTINGS
        if path.exists():
            refuse_other_run(self.folder, self._differences(_read(path, "choose another output_dir")))
        elif len(self):
            raise ConfigError(
                f"{self.folder}: has results, but no {SETTINGS} with the settings they depend on: choose another "
                "output_dir"
            )
        write_text(path, json.dumps(self.record, indent=2) + "\n")
        remove_leftovers(self.folder)

    def _differences(self, theirs: Mapping[str, Any]) -> list[Problem]:
        """Return (key, line) of each setting and each digest that differs in the record of a folder."""
        ours, lines = self.record, []
        for key in {**ours, **theirs}:
            if ours.get(key) == theirs.get(key):
                continue
            if key in self.digests:  # whose value means nothing to people
                line = f"{key}: other than those of the {self.what} in {self.folder}; choose another output_dir"
            else:
                line = (
                    f"{key} is {json.dumps(ours.get(key))}, but {json.dumps(theirs.get(key))} in the {self.what} in "
                    f"{self.folder}; set it back, or choose another output_dir"
                )
            lines.append((key, line))
        return lines

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key not in self:
            raise KeyError(key)
        path = self.path(key)
        result = _read(path, _AGAIN)
        if "counts" not in result:
            raise ConfigError(f"{path}: is damaged; {_AGAIN}")
        of = result.pop(OF, None)  # earlier versions wrote none
        self.refuse_foreign(path, key, of, _AGAIN)
        return result

    def refuse_foreign(self, path: Path, key: str, of: object, remedy: str) -> None:
        """Raise ConfigError where `of`, as the file of a result or of its weights has it, is that of another result."""
        if self.record and of not in (None, self.identity(key)):
            raise ConfigError(f"{path}: is of other options or data than the {self.what} in {self.folder}; {remedy}")

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        of = {OF: self.identity(key)} if self.record else {}
        write_text(self.path(key), json.dumps({**value, **of}) + "\n")

    def __delitem__(self, key: str) -> None:
        self.path(key).unlink()

    def __contains__(self, key: object) -> bool:
        return self.path(str(key)).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")) if path.name != SETTINGS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def identity(self, key: str) -> str:
        """Return what tells the result of a key, and its weights, from those of other keys, settings and data."""
        # A setting that is null is as good as none, as in `_differences`.
        record = {name: value for name, value in self.record.items() if value is not None}
        return sha256(json.dumps([key, record], sort_keys=True).encode()).hexdigest()[:16]

    def path(self, key: str) -> Path:
        """Return the file of a result."""
        return self.folder / f"{key}.json"


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is damaged; {remedy}")
    return content
