"""Batches, trainings and 16-bit labels in the studio's page."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from browser import chromium
from odd_images import write_png
from studio_client import Client, studio
from studio_visit import visit, wait_for
from tiny import TINY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def test_a_training_is_shown_as_it_goes_on(browser, page: Client, trained: Path):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    with visit(browser, page) as seen:
        seen.page.click("#tab-training")
        seen.page.locator("#training-state", has_text="No training is running in trained.").wait_for()
        seen.page.locator("#curve .smooth").wait_for()
        last = rows[-1]
        assert seen.page.text_content("#curve-last") == f"step {last['step']}, epoch {last['epoch']}"
        assert "in epoch 3" in seen.page.text_content("#log")
        seen.page.select_option("#curve-key", "lr")
        assert "lr from step" in seen.page.get_attribute("#curve svg", "aria-label")
        # The view is the same after a reload.
        seen.page.reload()
        seen.page.locator("#curve .smooth").wait_for()
        seen.check()


def test_a_batch_survives_a_reload_and_is_stopped_and_resumed(browser, page: Client):
    with visit(browser, page) as seen:
        shown = seen.page
        shown.click("#tab-batch")
        shown.fill("#job-count", "5000")
        shown.fill("#job-steps", "2")
        shown.click("#job-start")
        job = shown.locator("#jobs .job").first
        job.get_by_text("running").wait_for()
        shown.reload()
        job.get_by_text("running").wait_for()
        wait_for(shown, lambda: not job.inner_text().split("\n")[1].startswith("0 of"))
        job.get_by_role("button", name="Stop").click()
        assert job.get_by_text("stopping…").count() == 1  # at once
        job.get_by_role("button", name="Resume").wait_for()
        done = int(job.locator(".number").text_content().split()[0])
        assert 0 < done < 5000
        job.get_by_role("button", name="Resume").click()
        job.get_by_text("running").wait_for()
        job.get_by_role("button", name="Stop").click()
        job.get_by_role("button", name="Resume").wait_for()
        seen.check()


def test_good_images_are_shown_beside_one_that_cannot_be_read(browser, windows, tmp_path):
    model, data, _ = windows
    for name in ("a", "c"):
        write_png(tmp_path / "good" / f"{name}.png", np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "good" / "b.png").write_bytes(b"no picture")
    values = {"model_path": model, "data_dir": data, "good_dir": tmp_path / "good"}
    with studio(results_path=tmp_path / "out", **values) as client, visit(browser, client) as seen:
        seen.page.click('#source-tabs [data-source="goods"]')
        wait_for(seen.page, lambda: seen.page.locator("#strip [data-good] img[src]").count() == 2)
        told = seen.page.locator("#strip [data-good]").evaluate_all("all => all.map(each => each.title)")
        assert told == ["a, 20 x 20 px", "b, which cannot be read", "c, 20 x 20 px"]
        seen.page.click('#strip [data-good="1"]')
        seen.page.get_by_text("unreadable or truncated").wait_for()


def test_a_pair_that_was_taken_back_can_be_accepted_again(browser, page: Client):
    with visit(browser, page) as seen:
        shown = seen.page
        shown.uncheck("#auto")
        shown.select_option("#count", "1")
        shown.click("#sample")
        seen.sampled(1)
        shown.click("#accept")
        shown.locator("#grid .badge.kept").wait_for()
        shown.click('#source-tabs [data-source="accepted"]')
        shown.locator("#strip .remove").first.click()
        shown.locator("#grid .badge.kept").wait_for(state="detached")
        shown.click("#accept")
        shown.locator("#grid .badge.kept").wait_for()
        seen.check()


def test_three_hundred_classes_are_found_and_painted(browser, tmp_path):
    data, rng = tmp_path / "data", np.random.default_rng(0)
    for number in range(3):
        write_png(data / "train" / "images" / f"{number}.png", rng.integers(0, 255, (16, 16, 3), np.uint8))
        write_png(data / "train" / "masks" / f"{number}.png", rng.integers(0, 300, (16, 16)).astype(np.uint16))
    values = {**TINY, "num_classes": 300, "max_epochs": 1, "data_dir": data}
    assert command_line.run("train", **values, output_dir=tmp_path / "run") == 0
    with studio(model_path=tmp_path / "run", data_dir=data, results_path=tmp_path / "out", steps=1) as client:
        label = client.label("train", 1)
        with visit(browser, client) as seen:
            seen.page.uncheck("#auto")
            seen.page.click('#strip [data-pair="train/1"]')
            seen.page.fill("#class-filter", "299")
            assert seen.page.locator("#classes button:visible").count() == 1
            seen.paint(299, (0.1, 0.1), (0.9, 0.9))
            seen.page.click("#sample")
            wait_for(seen.page, lambda: bool(seen.draws))
            sent = seen.draws[0][1]
            assert sent.dtype.itemsize == 2
            assert set(sent[sent != label].tolist()) == {299}
            assert (sent == 299).sum() > 40
            seen.sampled(4)
            seen.page.click("#accept")
            seen.page.locator("#grid .badge.kept").wait_for()
            name = client.get("/api/accepted").json["accepted"][0]["name"]
            assert np.array_equal(client.get(f"/api/accepted/{name}/labels").label, sent)
            # It can be taken back.
            seen.page.click('#source-tabs [data-source="accepted"]')
            seen.page.get_by_label(f"Take back {name}").click()
            seen.page.locator("#strip", has_text="Nothing is kept yet").wait_for()
            assert client.get("/api/accepted").json["count"] == 0
            seen.check()
