"""Exported files to the Hugging Face Hub: one commit of exactly these, never over a card that people have edited."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from guided_diffusion.runtime.card_file import HUB_CARD, is_untouched, read_card
from guided_diffusion.runtime.errors import CheckpointError, ConfigError
from guided_diffusion.runtime.hub import PATIENCE, Unreachable, hub_errors
from guided_diffusion.runtime.units import counted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEY = "push_to"
_SHOWN = 3  # files that are named, at most


@dataclass(frozen=True)
class PushTarget:
    """A repository, user/name, that is made where it does not exist, private or public."""

    repo: str
    kind: Literal["model", "dataset"]
    private: bool


@contextmanager
def _told(target: PushTarget, before: str = "") -> Iterator[None]:
    """Turn what goes wrong in the block into one line about push_to; before: what was done already."""
    try:
        with hub_errors(f"{KEY} is {target.repo}", target.repo):
            yield
    except Unreachable as error:
        remedy = "check the network, and run the same command again" if before else "check the network, or leave it out"
        raise ConfigError.of_keys((KEY, f"{KEY} is {target.repo}, but {error}{before}: {remedy}")) from None
    except CheckpointError as error:
        raise ConfigError.of_keys((KEY, f"{error.messages[0]}{before}")) from None


def check_push(target: PushTarget) -> None:
    """Raise ConfigError where pushing to `target` cannot work, to be called before anything is written.

    There has to be a token that the hub knows, and a repository that is public already is not taken for a private one.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        line = f"{KEY} is {target.repo}, but there is no token of the hub: log in by `hf auth login`, or set HF_TOKEN"
        raise ConfigError.of_keys((KEY, line))
    public = False
    with _told(target):
        api = HfApi()
        public = _is_public(api, target)
        api.whoami()
    if public and target.private:
        line = f"{KEY} is {target.repo}, which exists and is public: set push_private to false to publish there, or "
        raise ConfigError.of_keys((KEY, f"{line}choose another name"))


def _is_public(api: HfApi, target: PushTarget) -> bool:
    from huggingface_hub.utils import RepositoryNotFoundError

    try:
        return api.repo_info(target.repo, repo_type=target.kind, timeout=PATIENCE).private is False
    except RepositoryNotFoundError:
        return False


def push(target: PushTarget, files: Mapping[str, Path], card: Path, message: str) -> list[str]:
    """Upload `files`, by their names in the repository, and the card, in one commit; return the lines to print.

    A card there that people have edited stays, and so do other files, of which the lines tell. Raises ConfigError where
    the hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _told(target, before="; the export itself is done"):
        api = HfApi()
        # Looked at again: it may have been made, or made public, since.
        if target.private and _is_public(api, target):
            raise ConfigError.of_keys((KEY, f"{KEY} is {target.repo}, which is public now: nothing was uploaded"))
        api.create_repo(target.repo, repo_type=target.kind, private=target.private, exist_ok=True)
        chosen, lines = dict(files), []
        if _is_edited(api, target):
            lines.append(f"note: {HUB_CARD} of {target.repo} was edited there, so it is left as it is")
        else:
            chosen[HUB_CARD] = card
        if target.kind == "dataset":
            lines += _left_over(api, target, chosen)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in chosen.items()]
        made = api.create_commit(target.repo, operations, commit_message=message, repo_type=target.kind)
    return [f"{len(operations)} files are now in {target.repo}:", f"  {made.commit_url}", *lines]


def _left_over(api: HfApi, target: PushTarget, files: Collection[str]) -> list[str]:
    """Return a line about files of a dataset's repository that are none of these `files`, as of an earlier push.

    Whoever loads a dataset by its folders would take them for part of it. They may be other people's, so they stay.
    """
    there = api.dataset_info(target.repo, timeout=PATIENCE).siblings or []
    left = sorted({each.rfilename for each in there} - {*files, HUB_CARD, ".gitattributes"})
    if not left:
        return []
    shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
    found = f"{target.repo} has {counted(len(left), 'file')} that are not of this export ({shown})"
    return [f"warning: {found}: delete them there, as loaders may read them, or push to a new name"]


def _is_edited(api: HfApi, target: PushTarget) -> bool:
    """Return whether the card in the repository is one that `export` did not write."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = api.hf_hub_download(target.repo, HUB_CARD, repo_type=target.kind, etag_timeout=PATIENCE)
    except LocalEntryNotFoundError:  # not asked
        raise
    except EntryNotFoundError:
        return False
    return not is_untouched(read_card(Path(path)) or "")
