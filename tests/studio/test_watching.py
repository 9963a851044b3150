"""A training watched through its files, and batches of samples in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from studio_client import Client

from guided_diffusion.runtime.lock import current_holder, folder_lock
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.studio.guard import Refused
from guided_diffusion.studio.jobs import Job, Jobs
from guided_diffusion.studio.training import TrainingWatch, previews_of


def events_of(watch: TrainingWatch) -> dict[str, dict]:
    return {event["type"]: event for event in watch.look()}


def test_metrics_log_and_previews_come_as_they_are_written(tmp_path):
    watch, log = TrainingWatch(tmp_path), RunLog(tmp_path)
    assert events_of(watch)["state"]["running"] is False
    assert events_of(watch) == {}
    with folder_lock(tmp_path, "train"):
        log.info("begun")
        log.start_metrics(0, 0)
        log.log_metrics(3, {"epoch": 1, "loss": 0.5})
        log.log_metrics(6, {"epoch": 2, "loss": float("nan")})
        found = events_of(watch)
        assert (found["state"]["running"], found["state"]["what"]) == (True, "train")
        assert found["metrics"]["rows"] == [
            {"step": 3, "epoch": 1, "loss": 0.5},
            {"step": 6, "epoch": 2, "loss": None},
        ]
        assert found["log"]["lines"] == ["begun"]
        (tmp_path / "previews").mkdir()
        (tmp_path / "previews" / "epoch_0002.png").write_bytes(b"")
        assert events_of(watch)["previews"]["names"] == ["epoch_0002.png"]
        log.close()
        # A resumed run removes what it will write again.
        resumed = RunLog(tmp_path)
        resumed.start_metrics(1, 3)
        resumed.log_metrics(6, {"epoch": 2, "loss": 0.25})
    found = events_of(watch)
    assert found["state"]["running"] is False
    assert found["metrics"]["reset"]
    assert [row["loss"] for row in found["metrics"]["rows"]] == [0.5, 0.25]
    resumed.close()


def test_metrics_of_a_run_that_began_anew_replace_those_before(tmp_path):
    watch, path = TrainingWatch(tmp_path), tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert events_of(watch)["metrics"] == {"type": "metrics", "rows": [{"step": 1}, {"step": 2}], "reset": True}
    with open(path, "a") as file:
        file.write('}\nno json\n[1]\n{"step": NaN}\n')
    assert events_of(watch)["metrics"] == {"type": "metrics", "rows": [{"step": 3}, {"step": None}]}
    path.write_text('{"step": 1}\n')
    assert events_of(watch)["metrics"] == {"type": "metrics", "rows": [{"step": 1}], "reset": True}


def test_previews_are_pictures_of_the_folder(tmp_path):
    folder = tmp_path / "previews"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    (folder / "sub.png").mkdir()
    (folder / "link.png").symlink_to("/etc/passwd")
    (folder / ".b.png.123.tmp").write_bytes(b"")
    assert previews_of(tmp_path) == ["a.png"]
    assert previews_of(tmp_path / "nowhere") == []


def test_a_lock_tells_who_holds_it(tmp_path):
    assert current_holder(tmp_path) == {}
    with folder_lock(tmp_path, "sample"):
        assert current_holder(tmp_path)["action"] == "sample"
    assert current_holder(tmp_path) == {}
    for text in ("{", "[]", "{}", '{"action": "x", "pid": "y", "host": "z", "since": ""}'):
        (tmp_path / ".lock.json").write_text(text)
        assert current_holder(tmp_path) == {}


def test_the_page_reads_events_of_the_run(page):
    found = first_events(page, "/api/training/events", 3)
    assert found["state"]["running"] is False
    assert [row["epoch"] for row in found["metrics"]["rows"]] == [1, 2, 3]
    assert any("finished" in line for line in found["log"]["lines"])


def first_events(page: Client, path: str, count: int) -> dict[str, dict]:
    """The first events of a stream without an end, by type."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    try:
        connection.request("GET", path, headers=page.page())
        answer, found = connection.getresponse(), {}
        while len(found) < count:
            line = answer.readline().decode()
            assert line, "the stream has ended"
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                found[event["type"]] = event
        return found
    finally:
        connection.close()


def process(code: int | None) -> SimpleNamespace:
    return SimpleNamespace(returncode=code, poll=lambda: code)


@pytest.mark.parametrize(
    ("code", "stopping", "done", "unfinished", "state"),
    [
        (None, False, 1, True, "running"),
        (None, True, 1, True, "stopping"),
        (130, True, 1, True, "stopped"),
        (0, False, 3, False, "done"),
        (0, True, 3, False, "done"),
        (2, False, 0, False, "failed"),
        (-9, False, 3, True, "failed"),
    ],
)
def test_the_state_of_a_batch_follows_from_its_process_and_files(tmp_path, code, stopping, done, unfinished, state):
    job = Job("batch_0001", tmp_path, tmp_path / "batch_0001.json", 3, process(code), stopping)
    (tmp_path / ".manifest-0.jsonl").write_text("{}\n" * done + '{"half')
    job.output.write_text("error: first\nmore\n")
    if unfinished:
        (tmp_path / ".synthetic").touch()
    told = job.state()
    assert (told["state"], told["done"], told["total"]) == (state, done, 3)
    assert told["line"] == ("error: first" if state == "failed" else "")


@pytest.mark.slow
def test_what_a_batch_says_is_read_as_it_was_written(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # as of what goes to files on Windows
    config = tmp_path / "batch_0001.json"
    config.write_text('{"base": "Müller.json"}', encoding="utf-8")
    job = Job("batch_0001", tmp_path, config, 3)
    job.start()
    assert job.process.wait(60) == 2
    assert "Müller.json" in job.state()["line"]


def test_batches_of_an_earlier_studio_are_found(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "batch_0002.json").write_text('{"num_samples": 5}')
    (folder / "batch_0003.json").write_text('{"num_samples": true}')
    (folder / "batch_x.json").write_text('{"num_samples": 5}')
    jobs = Jobs(tmp_path, lambda folder, asked: {})
    assert [(each["id"], each["state"], each["total"]) for each in jobs.states()] == [("batch_0002", "stopped", 5)]
    assert jobs.running == ""


WRITER = """
import sys, time
from guided_diffusion.runtime.lock import folder_lock
with folder_lock(sys.argv[1], "sample"):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT here")
def test_a_batch_that_a_killed_studio_left_running_is_seen_and_stopped(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name in ("batch_0001", "batch_0002"):
        (folder / f"{name}.json").write_text('{"num_samples": 5}')
    arguments = [sys.executable, "-c", WRITER, str(folder / "batch_0001"), "-c", str(folder / "batch_0001.json")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as left:
        try:
            assert left.stdout is not None
            assert left.stdout.readline() == b"begun\n"
            # As where the number of a dead process was given to another program.
            (folder / "batch_0002").mkdir()
            shutil.copy(folder / "batch_0001" / ".lock.json", folder / "batch_0002")
            jobs = Jobs(tmp_path, lambda folder, asked: {})
            assert [each["state"] for each in jobs.states()] == ["stopped", "running"]
            with pytest.raises(Refused, match="batch_0001 is running"):
                jobs.resume("batch_0002")
            jobs.close()
            assert jobs.running == "batch_0001"
            jobs.stop("batch_0001")
            assert left.wait(30) != 0
            assert [each["state"] for each in jobs.states()] == ["stopped", "stopped"]
        finally:
            left.kill()


def wait_for(page: Client, name: str, *states: str, done: int = 0) -> dict:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        jobs = first_events(page, "/api/jobs/events", 1)["jobs"]["jobs"]
        job = next(job for job in jobs if job["id"] == name)
        if job["state"] in states and job["done"] >= done:
            return job
        time.sleep(0.1)
    raise AssertionError(f"{name} is not {states}: {job}")


@pytest.mark.slow
def test_a_batch_is_stopped_and_goes_on(page, results):
    name = page.post("/api/jobs", {"num_samples": 96, "seed": 3, "steps": 20}).json["id"]
    wait_for(page, name, "running", done=8)
    assert "is running" in page.post("/api/jobs", {"num_samples": 1, "seed": 0}).error
    drawn = page.drawn(page.label())  # beside it
    assert page.get(f"/api/draws/{drawn}/0/image").status == 200
    assert page.delete(f"/api/jobs/{name}").status == 204
    stopped = wait_for(page, name, "stopped")
    assert 8 <= stopped["done"] < 96
    written = json.loads((Path(results) / "jobs" / f"{name}.json").read_text())
    assert (written["num_samples"], written["seed"], written["steps"]) == (96, 3, 20)
    assert page.post(f"/api/jobs/{name}/resume", {}).status == 204
    done = wait_for(page, name, "done")
    assert done["done"] == 96
    assert len(list(Path(done["folder"]).glob("images/*.png"))) == 96
