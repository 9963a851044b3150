"""The server: the page before torch, one line for what cannot be opened, gone soon after Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import finish, start
from studio_client import Client, studio

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.studio.workplace import Workplace
from guided_diffusion.runtime.errors import ConfigError, UserError
from guided_diffusion.studio.jobs import ask_to_stop, detached
from guided_diffusion.studio.server import Studio, listening, redirect_page
from guided_diffusion.studio.tickets import Tickets

ROOT = Path(__file__).parents[2]
BEFORE_TORCH = """
import http.client, os, sys, threading

class Watch:
    server, early = None, []

    def find_spec(self, name, path=None, target=None):
        # The thread of the model imports them as soon as the page is on its way.
        if name in ("torch", "numpy", "PIL", "scipy") and not (self.server and self.server.desk.page_served.is_set()):
            self.early.append(name)

watch = Watch()
sys.meta_path.insert(0, watch)
from guided_diffusion.cli import main
from guided_diffusion.config.load import load_config
from guided_diffusion.actions import studio
from guided_diffusion.studio.server import Studio, listening
with listening(0) as listener:
    server = Studio(load_config("studio", {"model_path": "nowhere", "results_path": sys.argv[1]}), listener)
    watch.server = server
    threading.Thread(target=server.run, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    print(watch.early, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_the_page_is_served_before_torch_is_imported(tmp_path):
    command = [sys.executable, "-c", BEFORE_TORCH, tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_path": "nowhere"}, "nowhere"),
        ({"results_path": "{data}"}, "is read by way of data_dir"),
        ({"good_dir": "nowhere"}, "nowhere"),
        ({"data_dir": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_opened_is_one_line(isdm, trained, lemons, tmp_path, values, named, monkeypatch):
    monkeypatch.setattr("guided_diffusion.studio.server._SHOWN_ERROR", 0.0)
    keys = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "open_browser": False}
    values = {key: value.format(data=lemons / "train" / "images") for key, value in values.items()}
    code, out, errors = isdm("studio", **{**keys, **values})
    assert code == 2
    assert len(errors) == 1
    assert named in errors[0]
    assert "http://127.0.0.1:" in out
    assert not (tmp_path / "out").exists()
    assert not (lemons / "train" / "images" / "train").exists()


def test_the_dataset_of_the_training_is_opened(trained, tmp_path):
    config = load_config("studio", {"model_path": str(trained), "results_path": str(tmp_path / "out")})
    counts = {split["name"]: split["count"] for split in Workplace.open(config).facts()["splits"]}
    assert counts == {"train": 8, "test": 4}


def test_numbers_of_pairs_are_told_apart_by_what_they_stand_for(trained, lemons, tmp_path):
    data = shutil.copytree(lemons, tmp_path / "lemons")

    def sources() -> str:
        values = {"model_path": str(trained), "data_dir": str(data), "results_path": str(tmp_path / "out")}
        return Workplace.open(load_config("studio", values)).facts()["sources"]

    before = sources()
    assert sources() == before
    for kind in ("images", "masks"):
        min((data / "train" / kind).iterdir()).rename(data / "train" / kind / "z.png")
    assert sources() != before


@pytest.mark.slow
def test_the_page_is_told_why_nothing_can_be_opened(tmp_path):
    values = {"model_path": str(tmp_path / "nowhere"), "results_path": str(tmp_path / "out")}
    with listening(0) as listener:
        server = Studio(load_config("studio", values), listener)
        failed: list[Exception] = []

        def run() -> None:
            try:
                server.run()
            except UserError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        answer = Client(server.address).get("/api/run")
        assert answer.status == 503
        assert "nowhere" in answer.error
        thread.join(20)
    assert "nowhere" in str(failed[0])


def test_a_second_studio_waits_for_the_first(page, trained, lemons, results, isdm):
    keys = {"model_path": trained, "data_dir": lemons, "results_path": results, "open_browser": False}
    code, out, errors = isdm("studio", **keys)
    assert (code, out) == (2, "")  # no address of a server that is gone
    assert "studio (process" in errors[0]


def test_a_port_that_is_taken_is_one_line(page):
    with pytest.raises(ConfigError, match="choose another, or 0"), listening(page.port):
        pass


def test_only_this_machine_can_reach_it(page):
    with socket.socket() as probe:
        probe.settimeout(2)
        address = _own_address()
        if address is None:
            pytest.skip("this machine has no address but 127.0.0.1")
        assert probe.connect_ex((address, page.port)) != 0


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def test_the_file_that_opens_the_browser_leads_to_the_page():
    page = redirect_page('http://127.0.0.1:1/#a&b"<c>')
    assert 'url=http://127.0.0.1:1/#a&amp;b&quot;&lt;c&gt;"' in page


def test_a_ticket_is_used_once_and_gets_old(monkeypatch):
    tickets, now = Tickets(), [0.0]
    monkeypatch.setattr("guided_diffusion.studio.tickets.time.monotonic", lambda: now[0])
    first, second = tickets.issue(Path("a")), tickets.issue(Path("b"))
    assert tickets.redeem(first) == Path("a")
    assert tickets.redeem(first) is None
    now[0] = 60.5
    assert tickets.redeem(second) is None
    assert tickets.redeem("") is None


def test_a_page_that_is_closed_leaves_no_traceback(tmp_path, caplog):
    """On Windows, asyncio takes a connection down that the browser has reset, and tells of that as of an error."""

    def raised(error: Exception) -> None:
        raise error

    async def closed() -> None:
        for error in (ConnectionResetError(10054, "closed by the remote host"), ValueError("another")):
            asyncio.get_running_loop().call_soon(raised, error)
        await asyncio.sleep(0)

    with listening(0) as listener:
        Studio(load_config("studio", {"model_path": "none", "results_path": str(tmp_path)}), listener)
        asyncio.run(closed())
    assert [record.exc_info[0] for record in caplog.records if record.name == "asyncio"] == [ValueError]


def test_windows_gets_a_group_and_ctrl_break():
    class Process:
        sent: list[int]

        def send_signal(self, number: int) -> None:
            self.sent = [number]

    assert detached("nt") == {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}
    assert detached("posix") == {"start_new_session": True}
    for platform, number in (("nt", getattr(signal, "CTRL_BREAK_EVENT", 1)), ("posix", signal.SIGINT)):
        process = Process()
        ask_to_stop(process, platform)
        assert process.sent == [number]


def test_a_batch_of_another_console_is_ended():
    class Process:
        ended = False

        def send_signal(self, number: int) -> None:
            raise OSError(22, "The parameter is incorrect")

        def terminate(self) -> None:
            self.ended = True

    process = Process()
    ask_to_stop(process, "nt")
    assert process.ended


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a process here")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_gone_soon_after_a_signal(trained, lemons, tmp_path, number, code):
    shown = tmp_path / "shown.txt"
    keys = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "open_browser": False}
    process = start("studio", keys, shown)
    deadline = time.monotonic() + 60
    while not (found := re.search(r"http://\S+#\S+", shown.read_text() if shown.exists() else "")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client = Client(found[0])
    assert client.get("/api/run").status == 200
    name = client.draw(client.label(), count=16, steps=50, sampler="ddpm").json["id"]
    paths = (f"/api/draws/{name}/events", "/api/training/events", "/api/jobs/events")
    streams = [threading.Thread(target=_read, args=(client, path)) for path in paths]
    for stream in streams:
        stream.start()
    time.sleep(0.3)
    asked = time.monotonic()
    os.kill(process.pid, number)
    assert finish(process, 20) == code
    assert time.monotonic() - asked < 3
    for stream in streams:
        stream.join(10)
        assert not stream.is_alive()
    assert "Traceback" not in shown.read_text()
    with studio(**{key: value for key, value in keys.items() if key != "open_browser"}):  # the folder is free again
        pass


def _read(client: Client, path: str) -> None:
    with contextlib.suppress(http.client.HTTPException, OSError):  # it ends in the midst of it
        client.get(path)


def test_while_the_device_is_taken_a_wish_is_told_so(page):
    page.desk.refusal = lambda: "batch_0001 is sampling on the same device: wait for it, or stop it"
    try:
        told = page.events(page.draw(page.label()).json["id"])[-1]
    finally:
        page.desk.refusal = lambda: ""
    assert told == {"type": "error", "line": "batch_0001 is sampling on the same device: wait for it, or stop it"}
    page.drawn(page.label())


def test_answers_are_sent_at_once():
    """asyncio turns off the collecting of small packets only for sockets that name their protocol."""
    with listening(0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP
