"""Weights from a hub on this machine: which file, which revision, what is refused, and what happens without it."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath

import pytest
import torch
from error_lines import check_error
from hypothesis import given, settings
from hypothesis import strategies as st
from local_hub import TOKEN, point_at, used_hub
from safetensors.torch import save

from guided_diffusion.runtime.checkpoint import find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError, ConfigError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.hub import fetch, pinned
from guided_diffusion.runtime.hub_address import HubAddress, address_mistake, origin_of, parse_address, shown
from guided_diffusion.runtime.hub_push import PushTarget, check_push, push

OURS = save({"a": torch.ones(2)}, {"config": json.dumps({"num_channels": 32}), "encoding": "{}"})
OTHERS = save({"a": torch.ones(2)}, {"format": "pt"})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with used_hub(tmp_path / "cache", monkeypatch) as hub:
        yield hub


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A hub that this process has no token of."""
    with used_hub(tmp_path / "cache", monkeypatch, token=None) as hub:
        yield hub


def refused(path: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(path)
    (line,) = caught.value.messages
    return line


# -------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:user/repo", HubAddress("user/repo")),
        ("hf:user/repo@v1.0", HubAddress("user/repo", "v1.0")),
        ("hf:a-b/c.d_e@main/sub/w.safetensors", HubAddress("a-b/c.d_e", "main", "sub/w.safetensors")),
        ("hf:user/repo/w@2.safetensors", HubAddress("user/repo", "", "w@2.safetensors")),
    ],
)
def test_an_address_has_parts(text, address):
    assert (parse_address(text), str(address), address_mistake(text)) == (address, text, "")


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:repo", "hf:user/", "hf:/repo", "hf://user/repo", "hf:user/repo@", "hf:user/repo@a/b.pt",
        "hf:user/repo/", "hf:user/repo/best.pt", "hf:user/repo/../w.safetensors", "hf:user/repo//etc/w.safetensors",
        "hf:user/repo/a/../../w.safetensors", "hf:user/repo/C:/w.safetensors", "hf:user/repo/..\\w.safetensors",
        "hf:../repo", "hf:user/..", "hf:us--er/repo", "hf:user/repo@../x/w.safetensors", "hf:user/re po",
    ],
)  # fmt: skip
def test_what_is_no_address_says_so(text):
    assert address_mistake(text)
    with pytest.raises(ValueError, match=r"write|give|export"):
        parse_address(text)


@settings(max_examples=200)
@given(st.text("ab./\\:@-", max_size=12), st.text("ab./\\:@-", max_size=12))
def test_no_address_leads_outside_of_its_folder(repo, file):
    text = f"hf:user/{repo}/{file}.safetensors"
    if not address_mistake(text):
        folder = PureWindowsPath("C:/cache/models--user--x/snapshots/c")
        inside = folder / parse_address(text).file
        assert ".." not in inside.parts
        assert folder in inside.parents


def test_files_of_the_cache_know_where_they_are_from(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    path = tmp_path / "models--user--repo" / "snapshots" / commit / "sub" / "w.safetensors"
    assert origin_of(path) == shown(path) == f"hf:user/repo@{commit}/sub/w.safetensors"
    for other in (tmp_path / "w.safetensors", tmp_path / "models--user--repo" / "snapshots" / "main" / "w.safetensors"):
        assert (origin_of(other), shown(other)) == ("", str(other))


# -------------------------------------------------------------------------------------------------- downloads


def test_the_only_file_is_found_and_downloaded_once(hub):
    repo = hub.add("user/repo", {"README.md": b"", "sub/w.safetensors": OURS})
    path = find_checkpoint("hf:user/repo")
    assert path.read_bytes() == OURS
    assert load_checkpoint(path).config == {"num_channels": 32}
    commit = repo.commits[-1][0]
    exact = pinned("hf:user/repo")
    assert exact == origin_of(path) == f"hf:user/repo@{commit}/sub/w.safetensors"
    hub.requests.clear()
    assert fetch("hf:user/repo") == path
    assert not [line for line in hub.requests if line.startswith("GET") and "resolve" in line]
    hub.requests.clear()
    assert fetch(exact) == path
    assert not hub.requests  # a file of a commit never changes
    assert fetch(f"hf:user/repo@{commit}") == path


def test_a_revision_stays_and_main_moves(hub):
    newer = save({"a": torch.zeros(2)}, {"config": "{}", "encoding": "{}"})
    repo = hub.add("user/repo", {"w.safetensors": OURS})
    old = fetch("hf:user/repo")
    repo.commit({"w.safetensors": newer})
    new = fetch("hf:user/repo")
    assert (old.read_bytes(), new.read_bytes()) == (OURS, newer)
    assert digest(old) != digest(new)
    assert fetch(f"hf:user/repo@{repo.commits[0][0]}/w.safetensors") == old


def test_a_private_repository_needs_the_token(stranger, monkeypatch):
    stranger.add("user/repo", {"w.safetensors": OURS}, private=True)
    check_error(refused("hf:user/repo"), "hf:user/repo", "log in")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("hf:user/repo").read_bytes() == OURS


@pytest.mark.parametrize(
    ("files", "address", "shown"),
    [
        (None, "hf:user/none", "no repository user/none"),
        ({"w.safetensors": OURS}, "hf:user/repo@v2", "no such revision"),
        ({"w.safetensors": OURS}, "hf:user/repo/v.safetensors", "w.safetensors"),
        ({"README.md": b"", "best.pt": b""}, "hf:user/repo", "no .safetensors file, only README.md, best.pt"),
        ({"a.safetensors": OURS, "b.safetensors": OURS}, "hf:user/repo", "hf:user/repo/a.safetensors"),
        ({"w.safetensors": OTHERS}, "hf:user/repo", "was not written by `export`"),
        ({"w.safetensors": b"no weights"}, "hf:user/repo", "was not written by `export`"),
        ({"../../w.safetensors": OURS}, "hf:user/repo", "outside of its folder"),
        ({"/etc/w.safetensors": OURS}, "hf:user/repo", "outside of its folder"),
        (None, "hf:user/repo/../w.safetensors", "names '../w.safetensors'"),
    ],
)
def test_what_cannot_be_taken_is_one_line_and_leaves_no_file(hub, tmp_path, files, address, shown):
    if files is not None:
        hub.add("user/repo", files)
    assert shown in refused(address)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_other_weights_are_not_downloaded_to_be_refused(hub):
    hub.add("user/repo", {"w.safetensors": save({"a": torch.zeros(100_000)}, {"format": "pt"})})
    refused("hf:user/repo")
    assert [line.split()[0] for line in hub.requests if "resolve" in line] == ["GET"]  # the first bytes


def test_without_a_hub_the_cache_counts(hub, monkeypatch, capsys):
    hub.add("user/repo", {"w.safetensors": OURS})
    path = fetch("hf:user/repo")
    point_at("http://127.0.0.1:9", monkeypatch)
    assert fetch("hf:user/repo") == fetch("hf:user/repo/w.safetensors") == path
    assert "using the cache" in capsys.readouterr().err
    for address in ("hf:user/other", "hf:user/repo/other.safetensors"):
        check_error(refused(address), address, "cannot be reached", "not in the cache")


# ----------------------------------------------------------------------------------------------------- uploads

TARGET = PushTarget("user/repo", "model", private=True)


@pytest.fixture
def exported(tmp_path) -> tuple[dict[str, Path], Path]:
    """Files to be pushed, and their card."""
    from guided_diffusion.runtime.card_file import sealed

    paths = {name: tmp_path / name for name in ("w.safetensors", "w.safetensors.json", "card.md")}
    paths["w.safetensors"].write_bytes(OURS)
    paths["w.safetensors.json"].write_text("{}")
    paths["card.md"].write_text(sealed("# weights\n"))
    card = paths.pop("card.md")
    return paths, card


@pytest.mark.parametrize("large", [10, 10_000_000])
def test_a_commit_has_the_files_and_the_card_alone(hub, exported, large):
    files, card = exported
    hub.large = large
    check_push(TARGET)
    assert not hub.repos
    lines = push(TARGET, files, card, "weights")
    repo = hub.repos["models/user/repo"]
    assert repo.private
    expected = {**{name: path.read_bytes() for name, path in files.items()}, "README.md": card.read_bytes()}
    assert repo.files == {".gitattributes": b"", **expected}
    assert bool(hub.uploads) == (large == 10)
    assert repo.commits[-1][0] in lines[1]
    assert fetch("hf:user/repo").read_bytes() == OURS


def test_a_card_that_people_edited_on_the_hub_stays(hub, exported):
    files, card = exported
    push(TARGET, files, card, "weights")
    repo = hub.repos["models/user/repo"]
    repo.commit({"README.md": b"license: mit\n" + repo.files["README.md"]})
    lines = push(TARGET, files, card, "weights again")
    assert repo.files["README.md"].startswith(b"license: mit")
    assert any("edited there" in line for line in lines)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, exported):
    hub.add("user/repo", {"README.md": b""})
    for act in (check_push, lambda target: push(target, *exported, "weights")):
        with pytest.raises(ConfigError, match="public"):
            act(TARGET)
    assert list(hub.repos["models/user/repo"].files) == ["README.md"]
    public = PushTarget("user/repo", "model", private=False)
    check_push(public)


@pytest.mark.parametrize(("token", "shown"), [(None, "HF_TOKEN"), ("hf_of_nobody", "refuses with 401")])
def test_pushing_needs_a_token_that_the_hub_knows(stranger, monkeypatch, token, shown):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError) as caught:
        check_push(TARGET)
    (line,) = caught.value.messages
    assert caught.value.keys == ("push_to",)
    check_error(line, "push_to", "user/repo", shown)
