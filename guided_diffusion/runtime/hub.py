"""Weights from the Hugging Face Hub, kept in its cache: `.safetensors` that `export` wrote, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from guided_diffusion.runtime.errors import CheckpointError, UserError, one_line
from guided_diffusion.runtime.files import stays_inside
from guided_diffusion.runtime.hub_address import SUFFIX, HubAddress, is_address, origin_of, parse_address
from guided_diffusion.runtime.launcher import launched_as

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PATIENCE = 4.0
"""Seconds for which the hub may not answer."""
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_SHOWN = 5
OWN_METADATA = ("config", "encoding")
"""What the metadata of a `.safetensors` file of ours has."""


def pinned(path: str) -> str:
    """Return an address with the commit and the file that it means now, which are downloaded; other paths as they are.

    Raises CheckpointError, see `fetch`.
    """
    return origin_of(fetch(path)) if is_address(path) else path


class Unreachable(Exception):
    """The hub does not answer, and why."""


def fetch(path: str | Path) -> Path:
    """Return the file in the cache that an address means, downloaded if it is not there yet.

    Where the hub cannot be reached the newest revision of the cache is taken, which is said. Raises CheckpointError
    where there is no such repository, revision or file, for files that `export` did not write, and without a network.
    """
    try:
        address = parse_address(path)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}") from None
    if address.is_pinned and address.file and (cached := _cached(address)) is not None:
        return _own(address, cached)
    try:
        with hub_errors(str(address), address.repo):
            return _own(address, _download(address))
    except Unreachable as error:
        cached = _cached(address)
        if cached is None:
            remedy = "check the network, or download the file elsewhere and give its path"
            raise CheckpointError.of(str(address), f"{error}, and it is not in the cache", remedy) from None
        if launched_as()[0] == 0:
            print(f"note: {address}: {error}; using the cache, {cached}", file=sys.stderr)
        return _own(address, cached)


@contextmanager
def hub_errors(subject: str, repo: str) -> Iterator[None]:
    """Turn what the hub answers in the block into a CheckpointError about `subject`, and no answer to Unreachable."""
    from huggingface_hub.utils import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        remedy = "ask for access on its page, then log in (`hf auth login`, or HF_TOKEN)"
        raise CheckpointError.of(subject, f"{repo} is gated", remedy) from None
    except RepositoryNotFoundError:
        remedy = "check the name; for a private one log in (`hf auth login`, or HF_TOKEN)"
        raise CheckpointError.of(subject, f"the hub has no repository {repo} that may be read", remedy) from None
    except RevisionNotFoundError:
        raise CheckpointError.of(subject, f"{repo} has no such revision", "give a branch, tag or commit") from None
    except LocalEntryNotFoundError as error:  # of a file that could not be asked for
        raise Unreachable(f"the hub cannot be reached ({_reason(error)})") from error
    except EntryNotFoundError:
        raise CheckpointError.of(subject, f"{repo} has no such file", "check its name there") from None
    except UserError:
        raise
    except Exception as error:
        if not _is_of_network(error) or getattr(error, "filename", None) is not None:  # of the disk
            raise
        # Of the class of the client or of the library, by version.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None:
            raise Unreachable(f"the hub cannot be reached ({_reason(error)})") from error
        if status >= 500:
            raise Unreachable(f"the hub answers with an error ({status})") from error
        if status == 404:
            raise CheckpointError.of(subject, f"the hub has no {repo}", "check the name, and HF_ENDPOINT") from None
        rights = " (the token may not do that)" if status in (401, 403) else ""
        found = f"the hub refuses with {status}{rights}: {_reason(error)}"
        raise CheckpointError.of(subject, found, "check name, rights and token") from None


def _is_of_network(error: BaseException) -> bool:
    """Return whether an error is one of a client of the hub, which changed more than once, or of the system."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


def _reason(error: BaseException) -> str:
    from huggingface_hub.utils import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return one_line(str(error).partition("\n")[0])[:120] or type(error).__name__


def _download(address: HubAddress) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi()
    info = api.model_info(address.repo, revision=address.revision or None, timeout=PATIENCE)
    file = _file_of(address, [sibling.rfilename for sibling in info.siblings or []])
    commit = str(info.sha)
    if _cached(HubAddress(address.repo, commit, file)) is None:
        _refuse_foreign(address, file, _header(api, address.repo, file, commit))
    # By its name, as the cache then knows which commit a branch was at, for when there is no network.
    return Path(hf_hub_download(address.repo, file, revision=address.revision or None, etag_timeout=PATIENCE))


def _file_of(address: HubAddress, names: list[str]) -> str:
    """Return the file that an address means, of those in the repository."""
    if address.file:
        if address.file not in names:
            there = [name for name in names if name.endswith(SUFFIX)]
            found = f"{address.repo} has no such file" + (f", but {_shown(there)}" if there else "")
            raise CheckpointError.of(str(address), found, "check its name there")
        return address.file
    there = sorted(name for name in names if name.endswith(SUFFIX))
    if not there:
        found = f"{address.repo} has no {SUFFIX} file" + (f", only {_shown(names)}" if names else "")
        raise CheckpointError.of(str(address), found, "use one with weights that `export` wrote")
    outside = next((name for name in there if not stays_inside(name)), None)
    if outside is not None:
        found = f"{address.repo} lists {outside!r}, which would be outside of its folder"
        raise CheckpointError.of(str(address), found, "do not use this repository")
    if len(there) > 1:
        found = f"{address.repo} has {len(there)} {SUFFIX} files: {_shown(there)}"
        raise CheckpointError.of(
            str(address), found, f"name one: {HubAddress(address.repo, address.revision, there[0])}"
        )
    return there[0]


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _header(api: HfApi, repo: str, file: str, commit: str) -> dict[str, str]:
    """Return the metadata of a file, of which only the first bytes are read; empty where there are none."""
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        return dict(api.parse_safetensors_file_metadata(repo, file, revision=commit).metadata)
    except SafetensorsParsingError:
        return {}


def _own(address: HubAddress, path: Path) -> Path:
    """Return a file of the cache; another tool may have put it there, so it is looked at, too."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    _refuse_foreign(address, path.name, metadata)
    return path


def _refuse_foreign(address: HubAddress, file: str, metadata: dict[str, str]) -> None:
    if not all(key in metadata for key in OWN_METADATA):
        found = f"{file} of {address.repo} was not written by `export` of isdm"
        raise CheckpointError.of(str(address), found, "use weights that were, or download other ones by hand")


def _cached(address: HubAddress) -> Path | None:
    """Return the file of an address where the cache has it, without asking the hub."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    revision = address.revision or None
    if address.file:
        found = try_to_load_from_cache(address.repo, address.file, revision=revision)
        return Path(found) if isinstance(found, str) else None
    try:
        folder = Path(snapshot_download(address.repo, revision=revision, local_files_only=True))
    except Exception as error:  # of which there are several kinds, by version
        if not _is_of_network(error) and type(error).__module__.split(".")[0] != "huggingface_hub":
            raise
        return None
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{SUFFIX}"))
    return folder / _file_of(address, there) if there else None
