"""`manifest.jsonl`: its lines keep every byte, lead to no file outside their folder, and say what samples share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import stays_inside
from guided_diffusion.samples.manifest import (
    IMAGES_ALONE,
    MANIFEST,
    MASKS_ALONE,
    ManifestLine,
    SampleSettings,
    read_manifest,
    write_manifest,
)

LINE = {
    "index": 3,
    "image": "images/a/b_rep001.png",
    "mask": "masks/a/b_rep001.png",
    "source_mask": "/data/masks/a/b.png",
    "source_digest": "0123456789abcdef",
    "seed": 7057233738143000254,
    "run_seed": 0,
    "sampler": "dpm++2m",
    "steps": 20,
    "time_grid": "logsnr",
    "eta": 0.0,
    "s": 1.5,
    "guidance_interval": [0.1, 2.0],
    "clip_denoised": True,
    "dynamic_threshold": None,
    "extrapolation": None,
    "cond_diffuse": None,
    "cond_opt": None,
    "eta_path": None,
    "unlabeled_to_zero": None,
    "weights": "ema",
    "augment_masks": False,
    "precision": "fp32",
    "checkpoint": "a26d8fd60c5d5767",
    "generates": None,
    "class_names": None,
    "mask_checkpoint": None,
    "layout_source": None,
    "layouts": None,
    "style_seed": None,
    "geometry": None,
    "hub": None,
}
OWN = ("index", "image", "mask", "source_mask", "source_digest", "seed")


def written(tmp_path, *lines: dict) -> Path:
    path = tmp_path / MANIFEST
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_settings_are_the_keys_that_follow_a_lines_own():
    assert [*OWN, *SampleSettings.model_fields] == list(LINE)


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        {key: LINE[key] for key in OWN[:5]},
        {key: value for key, value in LINE.items() if key not in ("time_grid", "extrapolation", "precision")},
        {"timestep_respacing": "50", **LINE, "agreement": 0.5, "newer": {"a": [1, None]}},
        dict(reversed(LINE.items())),
        {**LINE, "eta": 0, "s": 2},
        {**LINE, "image": "images/\udcff é.png", "mask": "masks/\udcff é.png", "source_mask": "/data/\udcff é.png"},
    ],
    ids=["whole", "own_keys", "older", "other_versions", "other_order", "integers", "not_unicode"],
)
def test_a_line_is_written_as_it_was_read(line, tmp_path):
    path = written(tmp_path, line, {**line, "index": 4})
    before = path.read_bytes()
    lines = read_manifest(path)
    write_manifest(path, lines)
    assert path.read_bytes() == before
    for key in (*OWN, *SampleSettings.model_fields):
        assert getattr(lines[0], key) == line.get(key)
    assert lines[0].files == (line["image"], line["mask"])


def test_a_new_line_has_its_own_keys_first():
    settings = SampleSettings(**{key: LINE[key] for key in LINE if key not in OWN})
    line = ManifestLine(**{key: LINE[key] for key in OWN}, **settings.model_dump())
    assert line.text() == json.dumps(LINE) + "\n"


def test_notes_are_added_at_the_end_or_replaced():
    line = ManifestLine(**LINE).with_notes({"agreement": 0.5})
    assert line.text() == json.dumps({**LINE, "agreement": 0.5}) + "\n"
    assert line.with_notes({"agreement": 0.75}).text() == json.dumps({**LINE, "agreement": 0.75}) + "\n"


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = written(tmp_path, LINE)
    path.write_text(path.read_text() + '{"index": 4, "image": "ima')
    assert [line.index for line in read_manifest(path)] == [3]


@pytest.mark.parametrize(
    "text",
    [
        b'{"name": "x"}',
        b"[1]",
        b"3",
        b"\xff\xfe",
        json.dumps({**LINE, "index": "3"}).encode(),
        json.dumps({**LINE, "index": True}).encode(),
        json.dumps({**LINE, "mask": None}).encode(),
        json.dumps({key: value for key, value in LINE.items() if key != "source_digest"}).encode(),
        json.dumps({**LINE, "steps": "many"}).encode(),
        b"[" * 100_000,
        b'{"index": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_a_manifest_is_an_error_in_one_line(text, tmp_path):
    path = tmp_path / MANIFEST
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + text + b"\n")
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert error.value.path == str(path)
    assert "\n" not in str(error.value)


def test_a_missing_or_unreadable_manifest_is_an_error(tmp_path):
    for path in (tmp_path / MANIFEST, tmp_path):
        with pytest.raises(DataError):
            read_manifest(path)


OUTSIDE = [
    "",
    ".",
    "/etc/passwd",
    "../secret.png",
    "images/../../secret.png",
    "..",
    "\\secret.png",
    "..\\secret.png",
    "images\\a.png",
    "images/..\\..\\secret.png",
    "C:/secret.png",
    "C:secret.png",
    "c:\\secret.png",
    "//server/share/secret.png",
    "\\\\server\\share\\secret.png",
]


def test_a_mask_alone_has_no_image(tmp_path):
    alone = {key: value for key, value in LINE.items() if key != "image"}
    (line,) = read_manifest(written(tmp_path, {**alone, "generates": MASKS_ALONE}))
    assert line.files == (LINE["mask"],)
    for pair in ({**alone, "generates": "pair"}, {**alone, "generates": IMAGES_ALONE}, alone):
        with pytest.raises(DataError):
            read_manifest(written(tmp_path, pair, LINE))


def test_an_image_alone_has_no_mask(tmp_path):
    alone = {key: LINE[key] for key in LINE if "mask" not in key and key != "source_digest"}
    (line,) = read_manifest(written(tmp_path, {**alone, "generates": IMAGES_ALONE}))
    assert line.files == (LINE["image"],)
    for pair in ({**alone, "generates": "pair"}, {**alone, "generates": MASKS_ALONE}, alone):
        with pytest.raises(DataError):
            read_manifest(written(tmp_path, pair, LINE))


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("key", ["image", "mask"])
def test_paths_stay_inside_the_folder(key, path, tmp_path):
    assert not stays_inside(path)
    with pytest.raises(DataError) as error:
        read_manifest(written(tmp_path, LINE, {**LINE, key: path}))
    assert error.value.path == str(tmp_path / MANIFEST)
    assert repr(path) in error.value.found


@pytest.mark.parametrize("path", ["images/a.png", "a.png", "images/a..b/c.png", "images/a: b.png", "images/é/c.png"])
def test_other_paths_are_read(path, tmp_path):
    assert read_manifest(written(tmp_path, {**LINE, "image": path}))[0].image == path


def test_settings_that_do_not_exist_or_have_another_type_are_refused():
    for values in ({"stepz": 3}, {"steps": "3"}, {"guidance_interval": (0.1, 2.0)}, {"clip_denoised": 1}):
        with pytest.raises(ValidationError):
            SampleSettings(**values)
