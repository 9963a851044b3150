"""Bodies that are no wish: bombs, labels of another number or of no class, JSON of another form. One line each."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from studio_client import OCTETS, Client

LABELS = np.zeros((16, 16), np.uint8)
HEAD = {"size": [16, 16], "count": 1, "seed": 0}


@pytest.fixture(autouse=True)
def _lives(page: Client):
    drawn = len(page.desk._draws)
    yield
    assert len(page.desk._draws) == drawn
    assert page.get("/api/run").status == 200


def test_a_bomb_is_not_unpacked(page):
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(2**20)) for _ in range(80)) + bomb.flush()
    assert len(packed) > 2**16
    assert page.send_draw(HEAD, packed).status == 413
    small = gzip.compress(bytes(2**16))  # less than the canvas may have, and more when it is unpacked
    assert len(small) < 500
    answer = page.send_draw(HEAD, small)
    assert answer.status == 400
    assert "256 bytes" in answer.error


PACKED = {
    "short": gzip.compress(bytes(255)),
    "long": gzip.compress(bytes(257)),
    "twice": gzip.compress(bytes(256)) * 2,
    "cut off": gzip.compress(bytes(256))[:-5],
    "changed": gzip.compress(bytes(256))[:-8] + b"12345678",
    "nothing": b"",
    "plain": bytes(256),
    "zlib": zlib.compress(bytes(256)),
    "with more behind": gzip.compress(bytes(256)) + b"more",
    "16 bits": gzip.compress(bytes(512)),
}


@pytest.mark.parametrize("how", PACKED)
def test_labels_have_exactly_the_bytes_of_the_canvas(page, how):
    answer = page.send_draw(HEAD, PACKED[how])
    assert answer.status == 400
    assert answer.error


@pytest.mark.parametrize("value", [5, 6, 255])
def test_a_label_is_a_class(page, value):
    label = LABELS.copy()
    label[7, 7] = value
    answer = page.draw(label)
    assert answer.status == 400
    assert f"the value {value}" in answer.error


HEADS = {
    "another size": {"size": [16, 17]},
    "a huge size": {"size": [65536, 65536]},
    "a size of one": {"size": [16]},
    "a size in words": {"size": "16,16"},
    "no image": {"count": 0},
    "too many images": {"count": 17},
    "half an image": {"count": 1.5},
    "true images": {"count": True},
    "a negative seed": {"seed": -1},
    "a seed beyond JavaScript": {"seed": 2**53},
    "a seed in words": {"seed": "1"},
    "no steps": {"steps": 0},
    "another sampler": {"sampler": "euler"},
    "a negative guidance": {"s": -1},
    "an unknown key": {"path": "/etc/passwd"},
    "a start without a number": {"start": {"split": "train"}},
    "a start elsewhere": {"start": {"split": "../train", "index": 0}},
    "a start below": {"start": {"split": "train", "index": -1}},
    "two bases": {"base": {"good": 0, "split": "train", "index": 0}},
    "a list": [],
    "a number": 3,
    "null": None,
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_is_checked_strictly(page, how):
    changed = HEADS[how]
    head = {**HEAD, **changed} if isinstance(changed, dict) else changed
    answer = page.send_draw(head, gzip.compress(LABELS.tobytes()))
    assert answer.status == 400
    assert answer.error


TEXTS = {
    "NaN": b'{"size":[16,16],"count":1,"seed":0,"s":NaN}',
    "Infinity": b'{"size":[16,16],"count":1,"seed":0,"s":Infinity}',
    "1e999": b'{"size":[16,16],"count":1,"seed":0,"s":1e999}',
    "a key twice": b'{"size":[16,16],"count":1,"count":2,"seed":0}',
    "no JSON": b"hello",
    "no text": b"\xff\xfe\x00",
    "depth": b"[" * 3000,
    "digits": b'{"size":[16,16],"count":1,"seed":' + b"9" * 3000 + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("how", TEXTS)
def test_a_head_is_one_line_of_json(page, how):
    headers = page.page(**{"Content-Type": OCTETS})
    answer = page.send("POST", "/api/draws", TEXTS[how] + b"\n" + gzip.compress(LABELS.tobytes()), headers)
    assert answer.status == 400
    assert answer.error


def test_a_body_without_a_line_ends_soon(page):
    headers = page.page(**{"Content-Type": OCTETS})
    for content in (b"{" * 100_000, b"", b"{}"):
        assert page.send("POST", "/api/draws", content, headers).status in (400, 413)


def test_a_body_says_its_length(page):
    headers = page.page(**{"Content-Type": OCTETS})
    for length in ("", "-1", "x", "99999999999", str(2**30)):
        answer = page.send("POST", "/api/draws", headers={**headers, "Content-Length": length})
        assert answer.status in (400, 411, 413), length
    chunked = {**headers, "Transfer-Encoding": "chunked", "Content-Length": "3"}
    assert page.send("POST", "/api/draws", b"0\r\n\r\n", chunked).status in (400, 411)
    assert page.send("GET", "/api/run", b"{}", {**page.page(), "Content-Length": "2"}).status == 413


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/accept", {"draw": "../../x", "j": 0}),
        ("/api/accept", {"draw": "0" * 16, "j": 16}),
        ("/api/accept", {"draw": "0" * 16, "j": 0}),
        ("/api/accept", {"draw": "0" * 16}),
        ("/api/jobs", {"num_samples": 0, "seed": 0}),
        ("/api/jobs", {"num_samples": 10**7, "seed": 0}),
        ("/api/jobs", {"num_samples": 1, "seed": 0, "model_path": "/x"}),
        ("/api/jobs", {"num_samples": 1, "seed": 0, "steps": 51}),
        ("/api/tickets", {"what": "/etc/passwd"}),
        ("/api/tickets", {"what": "report"}),
        ("/api/jobs/batch_0001/resume", {"more": 1}),
    ],
)
def test_other_bodies_are_checked_as_strictly(page, path, content):
    answer = page.post(path, content)
    assert answer.status in (400, 404)
    assert answer.error
    long = page.page(**{"Content-Type": "application/json"})
    assert page.send("POST", path, json.dumps(content).encode() + b" " * 5000, long).status == 413
