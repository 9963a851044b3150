"""Addresses of weights on the Hugging Face Hub: `hf:user/repo[@revision][/file]`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from guided_diffusion.runtime.files import stays_inside

PREFIX = "hf:"
SUFFIX = ".safetensors"
"""Of the only files that are read from there."""
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_ADDRESS = re.compile(r"hf:(?P<repo>[^/@]*/[^/@]*)(?:@(?P<revision>[^/]*))?(?:/(?P<file>.*))?", re.DOTALL)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
EXAMPLE = "hf:user/repo, hf:user/repo@revision or hf:user/repo/weights.safetensors"


@dataclass(frozen=True)
class HubAddress:
    """A repository, the revision (a branch, tag or commit; "" for the newest) and the file ("" for the only one)."""

    repo: str
    revision: str = ""
    file: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}" + (f"/{self.file}" if self.file else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same files."""
        return _COMMIT.fullmatch(self.revision) is not None


def is_address(path: str | Path) -> bool:
    """Return whether a path is the address of a repository."""
    return str(path).startswith(PREFIX)


def is_repo(name: str) -> bool:
    """Return whether `name` can be that of a repository: user/repo."""
    return _REPO.fullmatch(name) is not None and ".." not in name and "--" not in name


def address_mistake(path: str) -> str:
    """Return what is wrong with an address and what to do, "" if nothing is."""
    match = _ADDRESS.fullmatch(path)
    if match is None or not is_repo(match["repo"]):
        return f"is no address of a repository: write {EXAMPLE}"
    revision, file = match["revision"], match["file"]
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        return f"has the revision {revision!r}, which is none: give a branch or tag without /, or a commit"
    if file is not None and not stays_inside(file):
        return f"names {file!r}, which is no file of the repository: give its path in there, without '..'"
    if file is not None and not file.endswith(SUFFIX):
        return f"names {file!r}, but only {SUFFIX} is read from the hub, as others can hold code: export that"
    return ""


def parse_address(path: str | Path) -> HubAddress:
    """Return the parts of an address; ValueError for one that has a mistake."""
    text = str(path).replace(os.sep, "/")
    match = _ADDRESS.fullmatch(text)
    if match is None or address_mistake(text):
        raise ValueError(address_mistake(text))
    return HubAddress(match["repo"], match["revision"] or "", match["file"] or "")


def shown(path: str | Path) -> str:
    """Return a file as people are told of it: by its address if it is of the hub, else by its absolute path."""
    return origin_of(path) or str(Path(path).absolute())


def origin_of(path: str | Path) -> str:
    """Return the address, with its commit, of a file in the cache of the hub; "" for any other file.

    The layout of the cache is documented: models--<user>--<repo>/snapshots/<commit>/<file>.
    """
    parts = Path(path).parts
    for index in range(len(parts) - 3):
        kind, *names = parts[index].split("--")
        inside = parts[index + 1] == "snapshots" and _COMMIT.fullmatch(parts[index + 2])
        if kind == "models" and len(names) == 2 and inside:
            return str(HubAddress("/".join(names), parts[index + 2], "/".join(parts[index + 3 :])))
    return ""
