"""What other pages, other names of this machine and other programs ask for: refused, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from studio_client import OCTETS, Client

from guided_diffusion.samples.manifest import read_manifest

JSON = "application/json"
READ = ("/api/run", "/api/pairs", "/api/pairs/train/0/image", "/api/parts", "/api/goods", "/api/accepted")
WRITTEN = ("/api/draws", "/api/accept", "/api/jobs", "/api/tickets", "/api/jobs/batch_0001/resume")


def state(results: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(results.rglob("*"))}


@pytest.fixture
def untouched(page: Client, results: Path):
    """Nothing is written, nothing drawn, and the studio lives."""
    before = state(results)
    draws = len(page_draws(page))
    yield
    assert state(results) == before
    assert len(page_draws(page)) == draws
    assert page.get("/api/run").status == 200


def page_draws(page: Client) -> dict:
    return page.desk._draws


FOREIGN = {
    "another origin": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "an opaque origin": {"Origin": "null"},
    "https": {"Origin": "https://{host}"},
    "two origins": {"Origin": "http://{host}, http://evil.example"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "an address typed in": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "an image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    "a rebound name": {"Host": "evil.example:{port}"},
    "a name that begins like it": {"Host": "127.0.0.1.evil.example:{port}"},
    "a name with a user": {"Host": "127.0.0.1@evil.example"},
    "no host": {"Host": ""},
    "all interfaces": {"Host": "0.0.0.0:{port}"},
    "no token": {"X-ISDM-Token": ""},
    "a token of an earlier start": {"X-ISDM-Token": "A" * 43},
    "half of the token": {"X-ISDM-Token": "{half}"},
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("how", FOREIGN)
def test_others_are_refused_everywhere(page, how):
    filled = {"host": page.host, "port": page.port, "half": page.token[:20]}
    headers = page.page(**{key: value.format(**filled) for key, value in FOREIGN[how].items()})
    asked = [("GET", path, b"", {}) for path in READ]
    asked += [("POST", path, b"{}", {"Content-Type": OCTETS if path == "/api/draws" else JSON}) for path in WRITTEN]
    asked += [("DELETE", "/api/accepted/studio_000000", b"", {})]
    for method, path, body, more in asked:
        answer = page.send(method, path, body, {**headers, **more})
        assert answer.status in (401, 403, 421), (how, method, path, answer)
        assert answer.error
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.usefixtures("untouched")
def test_a_header_given_twice_counts_for_nothing(page):
    for name, value in (("Host", page.host), ("X-ISDM-Token", page.token)):
        raw = f"GET /api/run HTTP/1.1\r\nHost: {page.host}\r\nX-ISDM-Token: {page.token}\r\n{name}: {value}\r\n\r\n"
        assert raw_answer(page, raw.encode()) in (400, 401, 421)


def raw_answer(page: Client, content: bytes) -> int:
    import socket

    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        connection.sendall(content)
        return int(connection.recv(64).split()[1])


@pytest.mark.usefixtures("untouched")
def test_a_form_of_another_page_is_refused(page):
    label = gzip.compress(np.zeros((16, 16), np.uint8).tobytes())
    content = json.dumps({"size": [16, 16], "count": 1, "seed": 0}).encode() + b"\n" + label
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        forged = {"Host": page.host, "Origin": "http://evil.example", "Content-Type": kind}
        assert page.send("POST", "/api/draws", content, forged).status == 403
        # Even with everything else right, what a form can send is not read.
        assert page.send("POST", "/api/draws", content, page.page(**{"Content-Type": kind})).status == 415
        assert page.send("POST", "/api/accept", b"{}", page.page(**{"Content-Type": kind})).status == 415


@pytest.mark.usefixtures("untouched")
def test_frames_and_sockets_are_refused(page):
    frame = {
        "Host": page.host,
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    }
    assert page.send("GET", "/", headers=frame).status == 403
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Origin": "http://a.b"}
    answer = page.send(
        "GET", "/api/run", headers=page.page(**upgrade, **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    )
    assert answer.status == 403


@pytest.mark.usefixtures("untouched")
def test_no_answer_is_given_to_a_preflight(page):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST", "Host": page.host}
    for path in ("/api/draws", "/", "/static/index.html"):
        answer = page.send("OPTIONS", path, headers=asked)
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert page.send("OPTIONS", "/api/draws", headers=page.page()).status == 405
    assert page.send("PUT", "/api/accept", headers=page.page()).status == 405


def test_the_shell_opens_from_a_link_and_holds_no_data(page, lemons):
    for site in ("none", "cross-site", "same-origin"):
        opening = {
            "Host": page.host,
            "Sec-Fetch-Site": site,
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        }
        answer = page.send("GET", "/", headers=opening)
        assert answer.status == 200
    for secret in (page.token, str(lemons), "lemon_0000"):
        assert secret.encode() not in answer.body


def test_every_answer_says_what_a_browser_must_not_do(page):
    answers = [
        page.get(path) for path in ("/", "/api/run", "/nothing", "/api/accepted/x/image", "/api/pairs/train/0/image")
    ]
    answers.append(page.send("GET", "/", headers={"Host": "evil.example"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == answer.headers["cross-origin-opener-policy"]
        assert "server" not in answer.headers


TRAVERSALS = (
    "..", "../..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cwindows", "....//....//etc", "%252e%252e%252f", "..%252fetc", "..%c0%afetc", "%c0%ae%c0%ae", "..%00",
    "0%00", "0%0a", "%2fetc%2fpasswd", "//etc/passwd", "C:%5cWindows", "C:/Windows", "%5c%5chost%5cshare", "file:%2f",
    "-1", "+0", "00000000000", "1e1", "0x0", "0.0", "1_0", "9" * 5000, "9" * 9, "%d9%a0", "%ef%bc%90", " 0", "0%20",
    "..;", "~", "~root", "$HOME", "%24%7bHOME%7d", ".trash", ".synthetic", "manifest.jsonl", "studio_000000.png",
    "..%2fimages%2fstudio_000000", "%3cscript%3e", "%22", "%27", "constructor", "__proto__", "",
)  # fmt: skip
PARAMETERS = (
    "/api/pairs/{}/0/image", "/api/pairs/train/{}/image", "/api/pairs/train/{}/labels", "/api/parts/{}",
    "/api/goods/{}/image", "/api/goods/{}/labels", "/api/draws/{}/events", "/api/draws/{}/hole",
    "/api/draws/{}/0/image",
    "/api/accepted/{}/image", "/api/accepted/{}/labels", "/api/training/previews/{}", "/static/{}", "/view/{}",
    "/api/pairs?split={}", "/api/pairs?page={}", "/api/parts?page={}", "/api/accepted?page={}",
)  # fmt: skip
HARMLESS = {"/api/parts?page={}", "/api/pairs?page={}", "/api/accepted?page={}"}
"""Lists, whose pages beyond the end are empty: 999999999 is such a number."""


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("where", PARAMETERS)
def test_no_spelling_of_a_path_leads_anywhere(page, where):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    for spelling in TRAVERSALS:
        if " " in spelling or (where in HARMLESS and spelling in ("9" * 9, "00000000000", "")):
            continue
        connection.putrequest("GET", where.format(spelling), skip_host=True)
        for name, value in page.page().items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in (400, 404), (where, spelling, answer.status)
        assert json.loads(body).keys() == {"error"}
    connection.close()


@pytest.mark.usefixtures("untouched")
def test_no_name_is_deleted_or_begun_by_another_spelling(page):
    for spelling in (name for name in TRAVERSALS if " " not in name):
        for path in (f"/api/accepted/{spelling}", f"/api/draws/{spelling}", f"/api/jobs/{spelling}"):
            assert page.delete(path).status in (404, 405), path
        assert page.post(f"/api/jobs/{spelling}/resume", {}).status == 404


@pytest.mark.skipif(os.name == "nt", reason="no such names here")
def test_names_of_files_come_as_text(tmp_path, trained):
    """A page puts them into the document as text alone; here they are JSON, whatever is in them."""
    from studio_client import studio

    data = tmp_path / "data"
    name = os.fsdecode(b"<script>alert(1)<\\script>\"'&\xff.png")
    for kind, value in (("images", 90), ("masks", 1)):
        from odd_images import write_png

        shape = (16, 16, 3) if kind == "images" else (16, 16)
        write_png(data / "train" / kind / name, np.full(shape, value, np.uint8))
    with studio(model_path=trained, data_dir=data, results_path=tmp_path / "out") as client:
        answer = client.get("/api/pairs")
        assert answer.headers["content-type"] == JSON
        assert answer.json["pairs"][0]["name"] == name.removesuffix(".png")
        label = client.label()
        pair = client.post("/api/accept", {"draw": client.drawn(label, start={"split": "train", "index": 0}), "j": 0})
        (line,) = read_manifest(tmp_path / "out" / "train" / "manifest.jsonl")
        assert pair.json == {"name": "studio_000000"}
        assert line.source_mask.endswith(name)
