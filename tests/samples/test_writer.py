"""The folder of a synthetic dataset: what it is continued with, and what it refuses."""

from __future__ import annotations

import json
import ntpath
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage, MaskEntry
from guided_diffusion.runtime.card_file import DATASET_CARD, sealed
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import MANIFEST, UNFINISHED, SampleSettings, file_digest
from guided_diffusion.samples.plan import plan_samples
from guided_diffusion.samples.reader import RUN_CONFIG, find_samples, open_samples, write_selection
from guided_diffusion.samples.writer import SyntheticFolder

SETTINGS = SampleSettings(run_seed=0, sampler="ddim", steps=4, eta=0.0, s=1.0, weights="ema", checkpoint="0" * 16)


@pytest.fixture
def encoding() -> LabelEncoding:
    return LabelEncoding(2, ("background", "scratch"), ((0,), (1,)))


@pytest.fixture
def sources(tmp_path) -> list[MaskEntry]:
    (tmp_path / "source").mkdir()
    entries = []
    for index in range(2):
        path = tmp_path / "source" / f"m{index}.png"
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(path)
        entries.append(MaskEntry(path.stem, str(path)))
    return entries


@pytest.fixture
def fill(tmp_path, encoding, sources):
    """Write `count` samples, as far as they are not there, into a folder with some settings."""

    def run(
        count: int, settings: SampleSettings = SETTINGS, split: str = "", *, with_edges: bool = False
    ) -> tuple[SyntheticFolder, int]:
        plan = plan_samples(sources, count, seed=0)
        output = SyntheticFolder(tmp_path / "out", split, encoding, settings, with_edges=with_edges)
        done = output.begin(plan)
        for rank in range(2):
            output.open_part(rank)
            for sample in plan[rank::2]:
                if sample.index not in done:
                    output.write(sample, torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.int64))
            output.close_part()
        assert len(output.finish()) >= count
        return output, len(done)

    return run


def test_what_is_damaged_is_told_from_what_is_not_done_yet(fill):
    output, _ = fill(4)
    assert output.damaged == []
    lines = output.manifest.read_text().splitlines(keepends=True)
    output.manifest.write_text("".join([lines[0], lines[1][:9] + "\n", *lines[2:]]))
    (output.folder / "images/m0_rep001.png").unlink()
    (output.folder / "masks/m1_rep001.png").write_bytes(b"")
    again, done = fill(6)
    assert (done, again.damaged) == (1, ["images/m1.png", "images/m0_rep001.png", "masks/m1_rep001.png"])
    text = "6 samples, 1 is there already, 3 were damaged and are made again ("
    assert again.counts(6, done, "sample") == f"{text}{', '.join(again.damaged)})"
    output.manifest.write_text(lines[0])
    (output.folder / UNFINISHED).touch()  # as a kill leaves it
    again, done = fill(6)
    assert (done, again.damaged) == (1, [])


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_lines_of_all_processes_are_merged_by_index(fill, sources):
    output, _ = fill(3)
    lines = lines_of(output.folder)
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line["image"] for line in lines] == ["images/m0.png", "images/m1.png", "images/m0_rep001.png"]
    assert lines[1]["source_digest"] == file_digest(sources[1].mask)
    assert list(lines[0])[7:] == list(SampleSettings.model_fields)
    assert all((output.folder / line[kind]).is_file() for line in lines for kind in ("image", "mask"))
    assert not list(output.folder.glob(".*"))
    found = find_samples(output.folder)
    assert found.checkpoint == "0" * 16
    assert found.lines["images/m1.png"].source_mask == sources[1].mask


def test_a_folder_is_continued(fill):
    first, _ = fill(2)
    before = (first.folder / MANIFEST).read_bytes()
    output, done = fill(3)
    assert done == 2
    assert (output.folder / MANIFEST).read_bytes().startswith(before)


def test_a_folder_of_an_older_version_is_continued_and_its_lines_stay(fill):
    output, _ = fill(2)
    lines = lines_of(output.folder)
    for line in lines:
        for key in ("time_grid", "extrapolation", "cond_diffuse", "precision"):
            assert line.pop(key) is None
        line["timestep_respacing"] = "4"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (output.folder / MANIFEST).write_text(text)
    _, done = fill(3)
    assert done == 2
    assert (output.folder / MANIFEST).read_text().startswith(text)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"s": 1.5}, ["s 1.0", "1.5"]),
        ({"guidance_interval": [0.1, 2.0]}, ["guidance_interval null", "[0.1, 2.0]"]),
        ({"weights": "raw"}, ['weights "ema"', '"raw"']),
        ({"clip_denoised": False}, ["clip_denoised null", "false"]),
    ],
)
def test_samples_of_other_settings_are_not_mixed(fill, changed, found):
    output, _ = fill(2)
    before = (output.folder / MANIFEST).read_bytes()
    with pytest.raises(DataError) as error:
        fill(3, SETTINGS.model_copy(update=changed))
    assert error.value.path == str(output.manifest)
    assert all(token in error.value.found for token in found)
    assert "results_path" in error.value.remedy
    assert (output.folder / MANIFEST).read_bytes() == before
    assert not (output.folder / UNFINISHED).exists()


def test_samples_of_other_instance_maps_are_not_mixed(fill, sources):
    plain, instance = sources[0], Path(sources[0].mask).with_name("i0.png")
    sources[0] = MaskEntry(plain.stem, plain.mask, str(instance))
    instance.write_bytes(b"before")
    output, _ = fill(2, with_edges=True)
    lines = lines_of(output.folder)
    assert [line["instance_digest"] for line in lines] == [file_digest(instance), ""]
    assert fill(3, with_edges=True)[1] == 2
    instance.write_bytes(b"after")
    for changed in (sources[0], plain):
        sources[0] = changed
        with pytest.raises(DataError) as error:
            fill(4, with_edges=True)
        assert error.value.path == str(output.manifest)
        assert "instance maps have changed" in error.value.found
    for line in lines:
        del line["instance_digest"]  # as earlier versions wrote it
    output.manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert fill(3, with_edges=True)[1] == 2


def test_a_selection_of_other_samples_keeps_nothing_of_how_the_first_were_made(fill, encoding, tmp_path):
    fill(4)
    config = tmp_path / "out" / RUN_CONFIG
    config.write_text('{"image_size": 4, "resize": "pad"}')
    target = tmp_path / "selected"
    for is_recorded in (True, False):
        samples = find_samples(tmp_path / "out")
        pairs = open_samples(samples, encoding, 3)
        write_selection(samples, pairs, encoding, target, [{}] * len(pairs))
        assert find_samples(target).config == samples.config
        assert bool(find_samples(target).lines) is bool(samples.config) is is_recorded
        assert not (target / DATASET_CARD).exists()
        (target / DATASET_CARD).write_text(sealed("As the first were made.\n"))
        for path in (config, tmp_path / "out" / MANIFEST):
            path.unlink(missing_ok=True)


def test_two_sources_of_one_name_on_windows_are_refused(monkeypatch):
    sources = [GoodImage("A", "good/A.png"), GoodImage("a", "good/a.jpg")]
    assert [sample.name for sample in plan_samples(sources, 2, seed=0)] == ["A", "a"]
    monkeypatch.setattr("os.path.normcase", ntpath.normcase)
    with pytest.raises(DataError, match=r"^good/a\.jpg: .* the same file, a, as that of good/A\.png; rename one"):
        plan_samples(sources, 2, seed=0)


def test_a_mask_whose_name_is_another_path_on_windows_is_refused_before_sampling():
    with pytest.raises(DataError) as error:
        plan_samples([MaskEntry("a\\b", "masks/a\\b.png")], 1, seed=0)
    assert error.value.path == "masks/a\\b.png"
