"""The studio's page in a browser with its server: the whole journey, and what only a browser can see."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from browser import FAINT, HEADINGS, TOO_WIDE, chromium
from studio_client import Client, studio
from studio_visit import PATIENCE, Visit, visit, wait_for
from tiny import TINY

from guided_diffusion.data.lemons import write_demo_dataset, write_good_lemons
from guided_diffusion.samples.manifest import read_manifest

pytestmark = pytest.mark.slow

EVIL = """<img src=x onerror="document.title='broken'">'&amp;"""
MOULD, BLEMISH = "<script>document.title='broken'</script>", 2

# Bars of which the end is cut off.
CUT_OFF = """() => [...document.querySelectorAll('.bar, .row, .tools, .fields')]
  .filter(bar => bar.scrollWidth > bar.clientWidth + 1).map(bar => bar.id + ' ' + bar.textContent.slice(0, 60))"""
ACCEPTED = '#source-tabs [data-source="accepted"]'


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A dataset with names that are HTML, a network that fills holes, good lemons, an evaluation with its judge."""
    root = tmp_path_factory.mktemp("journey")
    data, good = root / "lemons", root / "good"
    write_demo_dataset(data, num_train=6, num_test=2, size=32)
    write_good_lemons(good, count=3, size=32)
    classes = json.loads((data / "classes.json").read_text())
    (data / "classes.json").write_text(json.dumps({**classes, "3": MOULD}))
    for kind in ("images", "masks"):
        first = min((data / "train" / kind).iterdir())
        first.rename(first.with_name(f"{EVIL}.png"))
    common = {"data_dir": data}
    network = {**TINY, "resize": "window", "scale": 0.5, "inpaint": True, "max_epochs": 1, "drop_rate": 0.2}
    assert command_line.run("train", **common, **network, good_dir=good, output_dir=root / "run") == 0
    sampled = {"model_path": root / "run", "num_samples": 2, "steps": 1, "results_path": root / "samples"}
    assert command_line.run("sample", **common, **sampled) == 0
    evaluation = {**JUDGE, "synthetic_dir": root / "samples", "output_dir": root / "evaluate"}
    assert command_line.run("evaluate", **common, **evaluation) == 0
    return {"root": root, "data": data, "good": good, "run": root / "run", "evaluate": root / "evaluate"}


JUDGE = {
    "architectures": ["fpn"],
    "encoder": "resnet18",
    "encoder_weights": "none",
    "train_steps": 1,
    "batch_size": 2,
    "study": False,
    "image_size": 32,
    "inception_weights": "none",
    "lpips_weights": "none",
    "near_duplicates": False,
}


@pytest.fixture(scope="module")
def client(folders) -> Iterator[Client]:
    values = {"model_path": folders["run"], "data_dir": folders["data"], "good_dir": folders["good"]}
    other = {"evaluate_dir": folders["evaluate"], "hole_margin": 2, "feather": 1, "steps": 3, "s": 1.5}
    with studio(results_path=folders["root"] / "accepted", **values, **other) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def test_the_whole_journey(browser, client, folders, isdm):
    accepted = folders["root"] / "accepted"
    with visit(browser, client) as seen:
        page = seen.page
        # A mask is loaded; sampled whole as it is, its labels are sent as they came.
        page.click(f'#strip [data-pair="train/{index_of(client, EVIL)}"]')
        page.locator("#about", has_text=EVIL).wait_for()
        page.uncheck("#keep")
        page.click("#sample")
        seen.sampled(4)
        head, sent = seen.draws[-1]
        assert (head["count"], head["steps"], head["edited"], head["base"]) == (4, 3, False, None)
        label = client.label("train", index_of(client, EVIL))
        assert np.array_equal(sent, label)

        # A stroke is sampled by itself.
        page.click("#sample")
        seen.sampled(4)
        before = len(seen.draws)
        seen.paint(3, (0.3, 0.3), (0.6, 0.5))
        page.locator("#about", has_text="edited").wait_for()
        wait_for(page, lambda: any(head["edited"] for head, _ in seen.draws[before:]))
        seen.sampled(4)
        head, sent = seen.draws[-1]
        assert head["edited"]
        assert head["start"] == {"split": "train", "index": index_of(client, EVIL)}
        assert set(sent[sent != label].tolist()) == {3}

        # Agreement, with the names of the classes as text.
        page.locator("#agreement tr", has_text=MOULD).wait_for()
        assert page.locator("#agreement tr.mean td").all_text_contents()[0].endswith("%")
        page.locator("#grid canvas.differences").wait_for()
        page.keyboard.press("d")
        assert page.locator("#grid canvas.differences").count() == 0

        assert not page.evaluate(FAINT)
        assert not page.evaluate(CUT_OFF)

        # The second candidate is accepted, the first discarded.
        page.locator("#grid .cell").nth(1).click()
        page.click("#accept")
        page.locator("#grid .badge.kept").wait_for()
        page.locator("#grid .cell").nth(0).click()
        page.click("#discard")
        assert page.locator("#grid .cell").count() == 3
        page.click(ACCEPTED)
        page.locator("#strip .tile").nth(0).wait_for()

        place_a_blemish(seen)
        with page.context.expect_page() as opened:
            page.click("#report")
        opened.value.locator("#verdict").wait_for()
        seen.check()
    check_accepted(accepted, sent, isdm, folders)


def place_a_blemish(seen: Visit) -> None:
    """Put a part of the shelf onto a good image, see the hole, accept."""
    page = seen.page
    page.uncheck("#auto")
    page.click('#source-tabs [data-source="goods"]')
    page.click('#strip [data-good="1"]')
    page.locator("#about", has_not_text="edited").wait_for()
    page.click("#sample")  # there is nothing to be painted yet
    page.locator("#message", has_text="defect").wait_for()
    page.click('#source-tabs [data-source="parts"]')
    page.locator("#strip .tile button", has_text="blemish").first.click()
    page.locator("#piece-bar").wait_for()
    page.locator("#piece-scale").fill("100")  # twice its size
    page.keyboard.press("h")
    page.click("#piece-drop")
    page.locator("#piece-bar").wait_for(state="hidden")
    page.click("#sample")
    wait_for(page, lambda: seen.draws[-1][0]["base"] == {"good": 1})
    seen.sampled(4)
    assert set(np.unique(seen.draws[-1][1]).tolist()) >= {0, BLEMISH}
    page.locator('#unders [data-under="result"][aria-checked="true"]').wait_for()
    assert page.evaluate("document.querySelector('#grid [aria-selected=true]') !== null")
    page.click("#accept")
    page.locator("#grid .badge.kept").wait_for()
    page.locator("#accepted-count", has_text="2").wait_for()


def check_accepted(accepted: Path, sent: np.ndarray, isdm: Any, folders: dict[str, Path]) -> None:
    """`check` and `evaluate` take the folder, which has both pairs."""
    lines = read_manifest(accepted / "train" / "manifest.jsonl")
    assert len(lines) == 2
    (placed,) = (line for line in lines if line.good_image)
    assert placed.lineage.split == "train"
    assert [Path(each.mask).parent for each in placed.lineage.masks] == [folders["data"] / "train" / "masks"]
    data = {"data_dir": accepted, "dataset_mode": "multi-class", "image_size": 32}
    code, _, errors = isdm("check", **data, output_dir=accepted.parent / "check")
    assert (code, errors) == (0, [])
    values = {**JUDGE, "data_dir": folders["data"], "synthetic_dir": accepted / "train"}
    code, _, errors = isdm("evaluate", output_dir=accepted.parent / "evaluated", **values)
    assert (code, errors) == (0, [])


def index_of(client: Client, name: str) -> int:
    pairs = client.get("/api/pairs?split=train").json["pairs"]
    return next(pair["index"] for pair in pairs if pair["name"] == name)


def test_a_reload_goes_on(browser, client):
    with visit(browser, client, scheme="dark") as seen:
        page = seen.page
        page.uncheck("#auto")
        page.select_option("#count", "2")
        page.click("#empty")
        seen.paint(1, (0.3, 0.3), (0.7, 0.7))
        seen.paint(2, (0.5, 0.5))
        page.locator("#settings summary").click()
        page.fill("#steps", "40")
        page.locator("#steps").blur()
        page.click("#sample")
        page.locator("#progress").wait_for()
        page.wait_for_timeout(500)  # the labels are put aside a moment after a stroke
        page.reload()
        page.locator("body[data-ready]").wait_for()
        seen.sampled(2)
        # The same labels as before, though the page was read anew; what was chosen is remembered.
        assert page.locator("#about").text_content() == "Empty mask · edited"
        assert not page.evaluate(FAINT)
        assert not page.is_checked("#auto")
        page.click("#sample")
        wait_for(page, lambda: len(seen.draws) == 2)
        assert np.array_equal(seen.draws[0][1], seen.draws[1][1])
        page.keyboard.press("Control+z")
        page.select_option("#count", "16")  # long enough to be stopped
        page.click("#sample")
        wait_for(page, lambda: len(seen.draws) == 3)
        page.locator("#stop").click()
        page.locator("#progress").wait_for(state="hidden")
        assert page.locator("#grid .cell:not(.waiting)").count() < 16
        assert not seen.draws[2][1].any()
        seen.check()


@pytest.mark.parametrize("what", ["other pairs", "another mask"])
def test_a_mask_of_a_pair_is_not_taken_up_where_that_is_another(browser, client, what):
    with visit(browser, client) as seen:
        page = seen.page
        page.uncheck("#auto")
        page.locator('#strip [data-pair="train/0"]').click()
        seen.paint(2, (0.4, 0.4), (0.6, 0.6))
        page.wait_for_timeout(500)
        page.reload()
        page.locator("body[data-ready]").wait_for()
        assert page.locator("#about").text_content().endswith("· edited")
        if what == "other pairs":  # as after a start with a pair more, whose numbers stand for other pairs
            others = {**client.get("/api/run").json, "sources": "0" * 16}
            page.route("**/api/run", lambda route: route.fulfill(json=others))
        else:  # as after a start with a changed file, whose digest would be recorded
            answer = {"headers": {"X-Size": "16,16"}, "body": bytes(16 * 16)}
            page.route("**/api/pairs/train/0/labels", lambda route: route.fulfill(**answer))
        page.reload()
        page.locator("body[data-ready]").wait_for()
        assert not page.locator("#about").text_content().endswith("· edited")


def test_the_page_without_its_token_says_so(browser, client):
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"http://{client.host}/")
    page.locator("#message", has_text="lacks the part after #").wait_for()
    context.close()


@pytest.mark.parametrize(("size", "scheme"), [((1280, 800), "light"), ((1024, 768), "dark"), ((853, 533), "light")])
def test_contrast_headings_and_width(browser, client, size, scheme):
    with visit(browser, client, size, scheme) as seen:
        page = seen.page
        for view in ("paint", "training", "batch", "keys"):
            page.click("#help" if view == "keys" else f"#tab-{view}")
            page.wait_for_timeout(200)
            where = f"{view} at {size}, {scheme}"
            assert not page.evaluate(TOO_WIDE), where
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), where
            assert not page.evaluate(CUT_OFF), where
            assert not page.evaluate(FAINT), where
            levels = page.evaluate(HEADINGS)
            assert levels[0] == 1
            assert levels.count(1) == 1
            assert all(after <= before + 1 for before, after in pairwise(levels))
        unnamed = """() => [...document.querySelectorAll('button, input, select, canvas[tabindex]')]
          .filter(each => !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length))
          .map(each => each.id)"""
        assert page.evaluate(unnamed) == []
        seen.check()


def test_undo_goes_back_over_another_mask(browser, client):
    with visit(browser, client) as seen:
        page = seen.page
        page.uncheck("#auto")
        page.uncheck("#keep")
        page.click('#strip [data-pair="train/0"]')
        page.locator('#strip [data-pair="train/0"][aria-pressed="true"]').wait_for()
        seen.paint(1, (0.2, 0.2), (0.8, 0.3))
        page.click('#strip [data-pair="train/3"]')
        page.locator('#strip [data-pair="train/3"][aria-pressed="true"]').wait_for()
        for keys, index, edited in (
            ("", 3, False),
            ("Control+z", 0, True),
            ("Control+z", 0, False),
            ("Control+y", 0, True),
        ):
            if keys:
                page.keyboard.press(keys)
            before = len(seen.draws)
            page.keyboard.press("s")
            wait_for(page, lambda before=before: len(seen.draws) > before)
            head, sent = seen.draws[-1]
            assert (head["start"]["index"], head["edited"]) == (index, edited)
            assert np.array_equal(sent, client.label("train", index)) != edited
        seen.check()


def test_keys_reach_everything(browser, client):
    with visit(browser, client) as seen:
        page = seen.page
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
        wanted = {"classes", "tools", "size", "canvas", "sample", "reroll", "auto", "count", "grid", "strip", "help"}
        assert wanted <= reached
        for key, tool in {
            "e": "eraser",
            "g": "fill",
            "l": "lasso",
            "x": "box",
            "v": "move",
            "r": "restore",
            "b": "brush",
        }.items():
            page.keyboard.press(key)
            assert page.get_attribute(f'[data-tool="{tool}"]', "aria-checked") == "true"
        size = page.text_content("#size-value")
        page.keyboard.press("]")
        assert int(re.sub(r"\D", "", page.text_content("#size-value"))) == int(re.sub(r"\D", "", size)) + 1
        page.keyboard.press("3")
        assert page.get_attribute('[data-class="2"]', "aria-checked") == "true"
        page.keyboard.press("o")
        assert page.get_attribute('[data-mode="outline"]', "aria-checked") == "true"
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()
        seen.check()
