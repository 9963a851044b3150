"""A hub on this machine: an HTTP server that speaks those requests of the Hugging Face Hub that downloads and commits
are made of. Files lie in memory; each commit has all files of its repository.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_token_of_the_tests"
KNOWING = [f"huggingface_hub.{name}" for name in ("constants", "hf_api", "file_download", "_snapshot_download")]
"""Modules that know where the hub is; older versions of the library have it in several."""


@dataclass
class Repo:
    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit that changes `files`; return its name."""
        content = {**(self.files if self.commits else {}), **files}
        name = hashlib.sha1(repr((len(self.commits), sorted(content.items()))).encode()).hexdigest()
        self.commits.append((name, content))
        return name

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else None
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """The content of the server: repositories by "models/user/name" or "datasets/user/name"."""

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    large: int = 10_000_000
    """Bytes from which on files are uploaded apart."""

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False, kind: str = "models") -> Repo:
        repo = self.repos.setdefault(f"{kind}/{name}", Repo(private))
        repo.commit(files)
        return repo


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        do_GET = do_POST = do_PUT = do_HEAD

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = path.split("/")
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            if parts[:1] == ["api"]:
                self.api(parts[1:], body)
            elif self.command == "PUT" and parts[0] == "uploads":
                hub.uploads[parts[1]] = body
                self.say(200, {})
            elif path.endswith("info/lfs/objects/batch"):
                self.batch(json.loads(body))
            elif "resolve" in parts:
                at = parts.index("resolve")
                kind, name = ("datasets", parts[1:at]) if parts[0] == "datasets" else ("models", parts[:at])
                self.resolve(f"{kind}/{'/'.join(name)}", parts[at + 1], "/".join(parts[at + 2 :]))
            else:
                self.say(404, {"error": "no such page"})

        def chunks(self) -> bytes:
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def batch(self, asked: dict[str, Any]) -> None:
            objects = [
                {"oid": each["oid"], "size": each["size"],
                 "actions": {"upload": {"href": f"{hub.address}/uploads/{each['oid']}"}}}
                for each in asked["objects"]
            ]  # fmt: skip
            self.say(200, {"transfer": "basic", "objects": objects})

        @property
        def logged_in(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def api(self, parts: list[str], body: bytes) -> None:
            if parts == ["whoami-v2"]:
                self.say(*((200, {"name": "user", "type": "user"}) if self.logged_in else (401, {"error": "no user"})))
            elif parts == ["validate-yaml"]:
                self.say(200, {"errors": [], "warnings": []})
            elif parts == ["repos", "create"]:
                self.create(json.loads(body))
            elif (repo := hub.repos.get("/".join(parts[:3]))) is None or (repo.private and not self.logged_in):
                self.say(404 if self.logged_in else 401, {"error": "Repository not found"}, code="RepoNotFound")
            elif self.command == "GET":
                self.info("/".join(parts[1:3]), repo, parts[4] if len(parts) > 4 else "main")
            elif not self.logged_in:
                self.say(403, {"error": "this token may not write"})
            elif parts[3] == "preupload":
                files = [
                    {"path": each["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if each["size"] >= hub.large else "regular"}
                    for each in json.loads(body)["files"]
                ]  # fmt: skip
                self.say(200, {"files": files})
            else:
                self.commit("/".join(parts[1:3]), repo, body)

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('type', 'model')}s/{asked.get('organization') or 'user'}/{asked['name']}"
            if not self.logged_in:
                self.say(401, {"error": "no user"})
            elif name in hub.repos:
                self.say(409, {"error": "exists", "url": f"{hub.address}/{name.removeprefix('models/')}"})
            else:
                private = asked.get("private") is True or asked.get("visibility") == "private"
                hub.repos[name] = Repo(private)
                hub.repos[name].commit({".gitattributes": b""})
                self.say(200, {"url": f"{hub.address}/{name.removeprefix('models/')}"})

        def info(self, name: str, repo: Repo, revision: str) -> None:
            found = repo.at(revision)
            if found is None:
                self.say(404, {"error": "Revision not found"}, code="RevisionNotFound")
                return
            files = [{"rfilename": file} for file in sorted(found[1])]
            self.say(200, {"id": name, "sha": found[0], "private": repo.private, "siblings": files, "tags": []})

        def commit(self, name: str, repo: Repo, body: bytes) -> None:
            files = {}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
            made = repo.commit(files)
            self.say(200, {"success": True, "commitOid": made, "commitUrl": f"{hub.address}/{name}/commit/{made}"})

        def resolve(self, repo_name: str, revision: str, file: str) -> None:
            repo = hub.repos.get(repo_name)
            if repo is None or (repo.private and not self.logged_in):
                self.say(404 if self.logged_in else 401, {"error": "Repository not found"}, code="RepoNotFound")
                return
            found = repo.at(revision)
            if found is None or file not in found[1]:
                code = "RevisionNotFound" if found is None else "EntryNotFound"
                self.say(404, {"error": code}, code=code)
                return
            content, status = found[1][file], 200
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": found[0]}
            asked = self.headers.get("Range")
            if asked and self.command == "GET":
                first, _, last = asked.removeprefix("bytes=").partition("-")
                end = min(int(last) + 1 if last else len(content), len(content))
                headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
                content, status = content[int(first) : end], 206
            self.send(status, content, headers)

        def say(self, status: int, content: dict[str, Any], code: str = "") -> None:
            self.send(status, json.dumps(content).encode(), {"X-Error-Code": code} if code else {})

        def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def point_at(address: str, patch: pytest.MonkeyPatch, **known: Any) -> None:
    """Have huggingface_hub take the hub to be at `address`."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    known |= {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template}
    for module in map(import_module, KNOWING):
        for name in known.keys() & vars(module).keys():
            patch.setattr(module, name, known[name])


@contextlib.contextmanager
def used_hub(cache: Path, patch: pytest.MonkeyPatch, *, token: str | None = TOKEN) -> Iterator[Hub]:
    """A hub that huggingface_hub talks to in this process, as it does by HF_ENDPOINT in another one."""
    with running_hub() as hub:
        known = {"HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "no token"), "HF_HUB_DISABLE_XET": True}
        point_at(hub.address, patch, **known)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        yield hub
