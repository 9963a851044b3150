"""`evaluate` from samples to a report: on tiny models, opened in a browser, and gone on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import command_line
import numpy as np
import pytest
from browser import check_report
from cards import check_card
from error_lines import check_error
from PIL import Image

from evaluations.metrics.base import EvaluationSets, Measurement, Metric
from evaluations.report.page import Section, Sheet
from guided_diffusion import cli
from guided_diffusion.pipelines.evaluation import metrics
from guided_diffusion.runtime.files import digest

TINY_STUDY = {
    "image_size": 32,
    "architectures": "fpn",
    "encoder": "tu-lcnet_050",
    "encoder_weights": "none",
    "ratios": [0.5, 1],
    "seeds": 2,
    "train_steps": 3,
    "lr": 5e-3,
    "batch_size": 2,
    "inception_weights": "none",
    "lpips_weights": "none",
    "report_images": 4,
}
ARMS = ["real", "mix_0.5", "mix_1", "synthetic", "augmented", "copy_paste"]


@pytest.fixture(scope="session")
def samples(trained, lemons, tmp_path_factory) -> Path:
    """24 samples, three of each training mask, with a manifest."""
    folder = tmp_path_factory.mktemp("samples") / "synthetic"
    values = {"model_path": trained, "data_dir": lemons, "data_split": "train", "results_path": folder}
    values |= {"split": "train", "num_samples": 24, "batch_size": 24, "steps": 2}
    assert command_line.run("sample", **values) == 0
    return folder


@pytest.fixture(scope="session")
def few_samples(trained, lemons, tmp_path_factory) -> Path:
    """8 samples, one of each training mask: features of Inception take their time."""
    folder = tmp_path_factory.mktemp("samples") / "few"
    values = {"model_path": trained, "data_dir": lemons, "data_split": "train", "results_path": folder}
    assert command_line.run("sample", **values, num_samples=8, batch_size=8, steps=2) == 0
    return folder


@pytest.fixture(scope="session")
def evaluated(samples, lemons, alexnet, tmp_path_factory) -> Path:
    """The folder of a finished evaluation with everything that needs no download."""
    folder = tmp_path_factory.mktemp("evaluations") / "evaluate"
    values = {**TINY_STUDY, "data_dir": str(lemons), "synthetic_dir": str(samples), "output_dir": str(folder)}
    config = folder.parent / "evaluate.json"
    config.write_text(json.dumps({**values, "filter_below": 0.001, "lpips_weights": str(alexnet)}))
    assert cli.main(["evaluate", "-c", str(config)]) == 0
    return folder


@pytest.fixture(scope="session")
def record(evaluated) -> dict:
    return json.loads((evaluated / "report.json").read_text())


@pytest.mark.slow
def test_the_report_opens_in_a_browser(evaluated):
    check_report(evaluated / "report.html")


@pytest.mark.slow
def test_every_arm_was_trained_and_tested_with_every_seed(evaluated, record):
    study = record["study"]
    arms = {arm["name"]: arm for arm in study["architectures"]["fpn"]["arms"]}
    assert list(arms) == ARMS
    assert len(list((evaluated / "study").glob("fpn-*.json"))) == 2 * len(ARMS)
    real = arms["real"]["real"]
    assert [(arms[name]["real"], arms[name]["synthetic"]) for name in ("mix_0.5", "mix_1")] == [
        (real, round(real / 2)),
        (real, real),
    ]
    # Samples of the masks of validation images are left out, three of each.
    assert arms["synthetic"]["synthetic"] == 3 * real
    for name, arm in arms.items():
        assert len(arm["scores"]["miou"]["by_seed"]) == 2
        if name != "real":
            found = arm["difference"]
            assert found["mean"] == pytest.approx(
                arm["scores"]["miou"]["mean"] - arms["real"]["scores"]["miou"]["mean"]
            )
            assert found["low"] <= found["mean"] <= found["high"]
    assert study["kind"] in ("helps", "hurts", "mixed", "cannot tell")
    assert study["test_images"] == 4


@pytest.mark.slow
def test_the_scores_are_those_of_the_saved_counts(evaluated, record):
    saved = json.loads((evaluated / "study" / "fpn-real-0.json").read_text())["counts"]
    ious = []
    for hit, wrong, missed in zip(
        *(map(sum, zip(*saved[key], strict=True)) for key in ("true_positive", "false_positive", "false_negative")),
        strict=True,
    ):
        if hit + missed:
            ious.append(hit / (hit + wrong + missed))
    arm = record["study"]["architectures"]["fpn"]["arms"][0]
    assert arm["scores"]["miou"]["by_seed"][0] == pytest.approx(sum(ious) / len(ious))


@pytest.mark.slow
def test_quality_is_told_with_its_numbers(record):
    assert record["data"]["images"] == {"training": 8, "test": 4, "samples": 24}
    assert len(record["agreement"]["by_sample"]) == 24
    assert record["diversity"]["masks"] == 8
    assert record["diversity"]["samples_per_mask"] == 3
    assert record["diversity"]["mean"] > 0
    assert "alexnet.pt" in record["diversity"]["network"]
    assert (record["diversity"]["images"], record["diversity"]["image_size"]) == (24, [32, 32])
    assert "bicubic" in record["diversity"]["resampling"]
    assert len(record["memorisation"]["samples"]) == 24
    assert {"mean", "std", "areas", "high_power"} <= record["drift"].keys()
    assert record["distances"] == {"skipped": 'not measured: inception_weights is "none"'}
    assert set(record["data"]["digests"]) == {"training", "test", "samples"}
    assert record["options"]["encoder"] == "tu-lcnet_050"


@pytest.mark.slow
def test_distances_are_told_with_what_they_depend_on(few_samples, lemons, isdm, tmp_path, inception):
    values = {**TINY_STUDY, "study": False, "agreement": False, "memorisation": False, "inception_weights": inception}
    code, shown, errors = isdm(
        "evaluate", data_dir=lemons, synthetic_dir=few_samples, output_dir=tmp_path / "out", **values
    )
    assert (code, errors) == (0, [])
    assert any(line.startswith("warning: ") and "FID" in line and "2048" in line for line in shown.splitlines())
    found = json.loads((tmp_path / "out" / "report.json").read_text())["distances"]
    assert [(found[name]["images"], found[name]["against"]) for name in ("samples", "test")] == [(8, 8), (4, 8)]
    assert found["samples"]["kid"]["subset_size"] == 8
    assert found["samples"]["fid"] > 0
    assert 0 <= found["samples"]["precision"] <= 1
    assert "inception.pt" in found["features"]
    assert digest(inception) in found["features"]
    assert found["image_size"] == [32, 32]
    assert "bicubic" in found["resampling"]


@pytest.mark.slow
def test_the_filtered_copy_is_a_dataset_with_its_manifest(evaluated, record, samples, isdm, lemons, tmp_path):
    copy = evaluated / "filtered" / "train"
    lines = [json.loads(line) for line in (copy / "manifest.jsonl").read_text().splitlines()]
    scores = {name: entry["score"] for name, entry in record["agreement"]["by_sample"].items()}
    kept = {name for name, score in scores.items() if score >= 0.001}
    assert record["filtered"]["kept"] == len(lines) == len(kept)
    check_card(copy, len(kept), "`filter_below` | 0.001", f"{len(kept)} of 24", "A segmenter chose them")
    assert {Path(line["image"]).stem for line in lines} == kept
    for line in lines:
        assert line["agreement"] == pytest.approx(scores[Path(line["image"]).stem], abs=1e-4)
        assert line["source_digest"]
        for kind in ("image", "mask"):
            assert (copy / line[kind]).read_bytes() == (samples / "train" / line[kind]).read_bytes()
    values = {**TINY_STUDY, "study": False, "agreement": False, "memorisation": False, "image_size": None}
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=copy, output_dir=tmp_path / "again", **values)
    assert (code, errors) == (0, [])


@pytest.mark.slow
def test_a_second_start_trains_nothing_and_more_seeds_only_what_is_new(evaluated, isdm, tmp_path):
    folder = tmp_path / "evaluate"
    shutil.copytree(evaluated, folder)
    before = {path.name: path.read_bytes() for path in (folder / "study").iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "study").glob("fpn-*")}
    config = evaluated.parent / "evaluate.json"
    code, shown, errors = isdm("evaluate", config, output_dir=folder)
    assert (code, errors) == (0, [])
    assert "12 of 12" in shown
    assert str((folder / "report.html").absolute()) in shown
    assert {path.name: path.read_bytes() for path in (folder / "study").iterdir()} == before
    fewer = {"agreement": False, "near_duplicates": False, "lpips_weights": "none", "filter_below": None}
    code, shown, _ = isdm("evaluate", config, output_dir=folder, seeds=3, **fewer)
    assert code == 0
    assert "12 of 18" in shown
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "study").glob("fpn-*-[01].*")} == times
    code, _, errors = isdm("evaluate", config, output_dir=folder, lr=0.1)
    assert code == 2
    (line,) = errors
    check_error(line, "lr", "0.1", "0.005", folder / "study", "output_dir")
    assert json.loads((folder / "config.json").read_text())["lr"] == 0.005


@pytest.mark.slow
def test_what_the_samples_say_need_not_be_said_again(samples, lemons, isdm, tmp_path):
    values = {"study": False, "agreement": False, "inception_weights": "none", "lpips_weights": "none"}
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=samples, output_dir=tmp_path / "out", **values)
    assert (code, errors) == (0, [])
    options = json.loads((tmp_path / "out" / "config.json").read_text())
    # Only segmentation models, of which none is trained here, take multiples of 32.
    assert (options["image_size"], options["resize"], options["dataset_mode"]) == (16, "crop", "multi-class")
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["study"] is None
    assert "not measured" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_the_question_can_be_asked_on_top_of_augmentation(samples, lemons, isdm, tmp_path):
    values = {**TINY_STUDY, "seeds": 1, "ratios": [1], "augment_all": True, "memorisation": False}
    values |= {"group_pattern": r"0*(\d)$"}  # one number in both splits
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=samples, output_dir=tmp_path / "out", **values)
    assert (code, errors) == (0, [])
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["study"]["seeds"] == 1
    arms = [arm["name"] for arm in record["study"]["architectures"]["fpn"]["arms"]]
    assert arms == ["real", "mix_1", "synthetic", "copy_paste"]
    assert record["options"]["augment_all"] is True
    assert any("is of the group" in line for line in record["data"]["warnings"])
    tests, groups = record["study"]["test_images"], len({path.stem for path in (lemons / "test").rglob("*.png")})
    (difference,) = record["study"]["architectures"]["fpn"]["verdict"]["differences"].values()
    assert (difference["images"], difference["groups"]) == (tests, groups)


@pytest.mark.slow
def test_planted_copies_are_in_the_report(samples, lemons, isdm, tmp_path):
    copied = tmp_path / "samples"
    shutil.copytree(samples / "train", copied)
    first = sorted((lemons / "train" / "images").iterdir())[0]
    target = sorted((copied / "images").iterdir())[5]
    with Image.open(first) as image:
        image.resize((16, 16)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
    values = {**TINY_STUDY, "study": False, "agreement": False}
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=copied, output_dir=tmp_path / "out", **values)
    assert (code, errors) == (0, [])
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    ranked = sorted(record["memorisation"]["samples"], key=lambda entry: entry["score"])
    assert ranked[0]["image"] == target.stem
    assert ranked[0]["training_image"] == first.stem
    assert ranked[0]["symmetry"] == "mirrored left to right"


@pytest.mark.slow
def test_the_same_segmenter_from_its_file_says_the_same(evaluated, record, samples, lemons, isdm, tmp_path):
    augmented = "with the usual augmentation" in record["agreement"]["segmenter"]
    weights = evaluated / "study" / f"fpn-{'augmented' if augmented else 'real'}-0.pt"
    values = {**TINY_STUDY, "study": False, "segmenter": weights, "segmenter_model": "smp/fpn/tu-lcnet_050"}
    code, _, errors = isdm("evaluate", data_dir=lemons, synthetic_dir=samples, output_dir=tmp_path / "out", **values)
    assert (code, errors) == (0, [])
    assert not (tmp_path / "out" / "study").exists()
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    for key in ("samples", "real_test_images", "by_sample"):
        assert found["agreement"][key] == record["agreement"][key]
    assert found["memorisation"]["features"] == "encoder of the segmenter trained elsewhere, averaged over pixels"
    assert found["memorisation"]["samples"] == record["memorisation"]["samples"]


@pytest.mark.slow
def test_with_test_images_to_compare_with_the_yardstick_stays_where_training_images_are_read(
    few_samples, lemons, isdm, tmp_path, inception
):
    # The training images are read for the segmenter that looks for the masks.
    values = {**TINY_STUDY, "study": False, "memorisation": False, "train_steps": 1}
    values |= {"compare_with": "test", "inception_weights": inception}
    code, shown, errors = isdm(
        "evaluate", data_dir=lemons, synthetic_dir=few_samples, output_dir=tmp_path / "out", **values
    )
    assert (code, errors) == (0, [])
    found = json.loads((tmp_path / "out" / "report.json").read_text())["distances"]
    assert [(found[name]["images"], found[name]["against"]) for name in ("samples", "test")] == [(8, 4), (4, 8)]
    assert "8 samples against 4 test images" in shown
    assert any(line.startswith("warning: ") and "8 of 8 samples" in line for line in shown.splitlines())


# ---------------------------------------------------------------------------------------------- a new metric


@dataclass(frozen=True)
class Brightness(Metric):
    """How much brighter the samples are than the real test images, in gray levels."""

    key: ClassVar = "brightness"

    def measure(self, sets: EvaluationSets) -> Measurement:
        found = float(sets.samples.images.mean() - sets.test.images.mean())
        line = f"the samples are {found:+.2f} gray levels brighter"
        scores = {"Brightness": sets.samples.images.mean(axis=(1, 2, 3))}
        facts = (("Brightness", f"{found:+.2f}"),)
        section = Section("Are they as bright?", [f"By {found:+.2f} gray levels."])
        return Measurement({"difference": found}, section, (line,), (f"not equal: {found:.1f}",), facts, scores)


@dataclass(frozen=True)
class Darkest(Brightness):
    """Pictures that the page draws, under the heading of another metric."""

    key: ClassVar = "darkest"

    def measure(self, sets: EvaluationSets) -> Measurement:
        sheet = Sheet("A label map", [(np.array([[0, 1], [2, 3]]),)], ("mask",))
        return replace(super().measure(sets), section=Section("Are they as bright?", figures=[sheet]))


@pytest.mark.slow
def test_a_new_metric_is_a_file_and_a_line(samples, lemons, isdm, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", [*metrics.METRICS, lambda context: Brightness(), lambda context: Darkest()])
    values = {**TINY_STUDY, "study": False, "agreement": False, "memorisation": False}
    code, shown, errors = isdm(
        "evaluate", data_dir=lemons, synthetic_dir=samples, output_dir=tmp_path / "out", **values
    )
    assert (code, errors) == (0, [])
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    found = record["brightness"]["difference"]
    assert found == record["darkest"]["difference"]
    drift = record["drift"]["mean"]  # against training and test images, not the test images alone
    assert found == pytest.approx(sum(each["synthetic"] - each["real"] for each in drift.values()) / 3, abs=5)
    assert f"the samples are {found:+.2f} gray levels brighter" in shown
    assert f"warning: not equal: {found:.1f}" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("Are they as bright?</h2>") == 1  # sections of one heading are joined
    for part in (f"By {found:+.2f} gray levels.", f"not equal: {found:.1f}", "<dt>Brightness</dt>", "A label map"):
        assert part in page
    assert "Brightness: " in page[page.index("Spread over all samples") :]


@pytest.mark.slow
def test_other_samples_are_compared_at_equal_counts(isdm, samples, few_samples, lemons, tmp_path):
    values = {**TINY_STUDY, "ratios": [0.5, 1], "seeds": 1, "baselines": False, "synthetic_only": False}
    values |= {"data_dir": lemons, "synthetic_dir": samples, "agreement": False, "near_duplicates": False}
    code, _, errors = isdm("evaluate", **values, other_dirs=[str(few_samples)], output_dir=tmp_path / "out")
    assert code == 0, errors
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    arms = {arm["name"]: arm for arm in record["study"]["architectures"]["fpn"]["arms"]}
    assert list(arms) == ["real", "mix_0.5", "mix_1", "other_few_1"]
    assert arms["other_few_1"]["synthetic"] == arms["mix_1"]["synthetic"] == arms["real"]["real"]
    assert list(record["study"]["architectures"]["fpn"]["verdict"]["differences"]) == ["0.5", "1"]
    assert arms["other_few_1"]["to_judged"].keys() == arms["other_few_1"]["difference"].keys()
    assert "other samples" in (tmp_path / "out" / "report.html").read_text()
    values |= {"ratios": [3], "output_dir": tmp_path / "out2", "other_dirs": [str(few_samples)]}
    code, _, errors = isdm("evaluate", **values)
    assert code == 2
    check_error(errors[-1], "ratios", few_samples)


@pytest.mark.parametrize(
    ("others", "more", "subject"),
    [
        (["samples"], {}, "other_dirs"),
        (["few", "few"], {}, "other_dirs"),
        (["nowhere"], {}, "nowhere"),
        (["few"], {"ratios": []}, "other_dirs"),
    ],
)
def test_other_samples_that_cannot_be_compared(isdm, samples, few_samples, lemons, tmp_path, others, more, subject):
    folders = {"samples": samples, "few": few_samples, "nowhere": tmp_path / "nowhere"}
    values = {**TINY_STUDY, **more, "data_dir": lemons, "synthetic_dir": samples, "output_dir": tmp_path / "out"}
    code, _, errors = isdm("evaluate", **values, other_dirs=[str(folders[name]) for name in others])
    assert code == 2
    check_error(errors[0], folders.get(subject, subject))
