"""A studio in a thread of the tests, and what a browser's page would send to it."""

from __future__ import annotations

import faulthandler
import gzip
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.config.load import load_config
from guided_diffusion.studio.desk import Desk
from guided_diffusion.studio.server import Studio, listening

OCTETS = "application/octet-stream"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def label(self) -> NDArray[np.integer]:
        kind = {"u8": "<u1", "u16": "<u2"}[self.headers["x-type"]]
        return np.frombuffer(self.body, kind).reshape(*map(int, self.headers["x-size"].split(",")))

    @property
    def error(self) -> str:
        """The one line of an error, which has no other key."""
        content = self.json
        assert content.keys() == {"error"}
        assert content["error"].strip()
        assert "\n" not in content["error"]
        return content["error"]


class Client:
    """Sends requests with the token of the page."""

    def __init__(self, address: str, desk: Desk | None = None):
        """desk: of a studio in this process."""
        self.desk = desk
        base, self.token = address.split("/#")
        self.host = base.removeprefix("http://")
        self.port = int(self.host.rpartition(":")[2])

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """Send exactly these headers (beside the length), to whose names no others are added."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if method == "POST" and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def page(self, **other: str) -> dict[str, str]:
        """The headers that the page's own requests have."""
        return {"Host": self.host, "X-ISDM-Token": self.token, "Sec-Fetch-Site": "same-origin", **other}

    def get(self, path: str) -> Answer:
        return self.send("GET", path, headers=self.page())

    def delete(self, path: str) -> Answer:
        return self.send("DELETE", path, headers=self.page(Origin=f"http://{self.host}"))

    def post(self, path: str, content: Any) -> Answer:
        headers = self.page(Origin=f"http://{self.host}", **{"Content-Type": "application/json"})
        return self.send("POST", path, json.dumps(content).encode(), headers)

    def draw(self, label: NDArray[np.integer], **head: Any) -> Answer:
        """Wish for images of a label map."""
        kind = "<u1" if label.dtype.itemsize == 1 else "<u2"
        packed = gzip.compress(label.astype(kind).tobytes())
        return self.send_draw({"size": list(label.shape), "count": 1, "seed": 0, "steps": 2, **head}, packed)

    def send_draw(self, head: Any, packed: bytes) -> Answer:
        headers = self.page(Origin=f"http://{self.host}", **{"Content-Type": OCTETS})
        return self.send("POST", "/api/draws", json.dumps(head).encode() + b"\n" + packed, headers)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of a draw, from the first to the last."""
        answer = self.get(f"/api/draws/{name}/events")
        assert answer.status == 200, answer
        return [
            json.loads(line.removeprefix("data: ")) for line in answer.body.decode().splitlines() if line[:1] == "d"
        ]

    def drawn(self, label: NDArray[np.integer], **head: Any) -> str:
        """The id of a draw that is done."""
        answer = self.draw(label, **head)
        assert answer.status == 202, answer
        name = answer.json["id"]
        last = self.events(name)[-1]
        assert last == {"type": "done"}, last
        return name

    def label(self, split: str = "train", index: int = 0) -> NDArray[np.integer]:
        return self.get(f"/api/pairs/{split}/{index}/labels").label


@contextmanager
def studio(**values: Any) -> Iterator[Client]:
    """Yield the client of a studio of this configuration that has loaded its model."""
    config = load_config("studio", {"open_browser": False, **{key: _plain(value) for key, value in values.items()}})
    with listening(0) as listener:
        server = Studio(config, listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            server.desk.page_served.set()
            client = Client(server.address, server.desk)
            while client.get("/api/run").json.get("loading"):
                threading.Event().wait(0.02)
            yield client
        finally:
            server.stop()
            thread.join(60)
            if thread.is_alive():
                faulthandler.dump_traceback(file=sys.__stderr__)  # where it is stuck
            assert not thread.is_alive()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)
