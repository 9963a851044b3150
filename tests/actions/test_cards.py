"""Cards beside samples, exported datasets and exported weights, as actions write, keep and complete them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import command_line
import numpy as np
import pytest
from cards import check_card
from error_lines import check_error
from huggingface_hub import ModelCard
from PIL import Image

from guided_diffusion.pipelines.evaluation.card import evaluated_regions, update_card
from guided_diffusion.runtime.card_file import is_untouched, regions_of
from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint
from guided_diffusion.runtime.files import digest
from guided_diffusion.samples.reader import find_samples

FEW = {"steps": 2, "data_split": "train"}
COUNT = 8
CHEAP = {
    "dataset_mode": "multi-class", "image_size": 32, "study": False, "agreement": False, "near_duplicates": False,
    "inception_weights": "none", "lpips_weights": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def sampled(trained, lemons, tmp_path_factory) -> Path:
    """A folder of samples of the training masks, never changed."""
    folder = tmp_path_factory.mktemp("cards") / "out"
    values = {"model_path": trained, "data_dir": lemons, "results_path": folder, **FEW}
    assert command_line.run("sample", **values, split="train", batch_size=3) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(sampled, lemons, tmp_path_factory) -> tuple[Path, Path]:
    """A copy of them that was evaluated, and the folder of the report."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(sampled, root / "out")
    values = {"data_dir": lemons, "synthetic_dir": root / "out", "output_dir": root / "report"}
    assert command_line.run("evaluate", **values, **CHEAP) == 0
    return root / "out", root / "report"


@pytest.fixture
def own(sampled, tmp_path) -> Path:
    shutil.copytree(sampled, tmp_path / "out")
    return tmp_path / "out"


class TestSamples:
    @pytest.mark.slow
    def test_it_says_what_is_in_the_files(self, sampled, trained):
        text = check_card(sampled / "train", COUNT, "lemons, 8 pairs, digest", "8 of lemons (train), digest")
        assert f"digest {digest(trained / BEST)}, weights ema" in text
        labels = np.stack([np.asarray(Image.open(path)) for path in sorted((sampled / "train/masks").iterdir())])
        for name, value in (("lemon", 1), ("gangrene", 4)):
            found = labels == value
            assert f"| {value} | {name} | {found.any((1, 2)).sum()} | {found.mean():.3%} |" in text

    def test_bytes_depend_on_the_samples_alone(self, sampled, trained, lemons, tmp_path):
        values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "other", **FEW}
        assert command_line.run("sample", **values) == 0
        card = "dataset_card.md"
        assert (tmp_path / "other" / card).read_bytes() == (sampled / "train" / card).read_bytes()

    def test_samples_of_test_masks_say_so(self, trained, lemons, isdm, tmp_path):
        values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "steps": 2}
        assert isdm("sample", **values)[0] == 0
        check_card(tmp_path / "out", 4, "4 of lemons (test)", "made of the test split")
        assert isdm("export", data_dir=tmp_path / "out", format="voc", export_path=tmp_path / "voc")[0] == 0
        check_card(tmp_path / "voc", 4, "made of the test split", "4 synthetic image")

    @pytest.mark.slow
    def test_readers_pass_it_by(self, own, isdm, tmp_path):
        read = {"data_dir": own, "dataset_mode": "multi-class"}
        (own / "test").mkdir()
        shutil.copytree(own / "train", own / "test", dirs_exist_ok=True)
        code, shown, errors = isdm("check", **read, output_dir=tmp_path / "check", preview_images=1)
        assert (code, errors) == (0, [])
        assert "dataset_card" not in shown
        assert isdm("masks", **read, results_path=tmp_path / "masks", num_masks=1)[0] == 0

    @pytest.mark.slow
    def test_a_card_that_was_edited_stays(self, own, trained, lemons, isdm):
        path = own / "train" / "dataset_card.md"
        edited = path.read_text().replace("---\n", "---\nlicense: mit\n", 1)
        path.write_text(edited)
        values = {"model_path": trained, "data_dir": lemons, "results_path": own, "split": "train", **FEW}
        code, shown, _ = isdm("sample", **values, num_samples=COUNT + 2)
        assert code == 0
        assert "edited, so it is left as it is" in shown
        assert path.read_text() == edited


class TestEvaluation:
    def test_the_verdict_and_its_limits_go_into_the_card(self, evaluated, sampled):
        folder, _ = evaluated
        text = check_card(folder / "train", COUNT, "**No verdict**", "8 samples against", "test images of lemons")
        for lacking in ("whether a segmentation model becomes better", "KID, FID", "near-duplicates", "by people"):
            assert f"{lacking}" in text.split("## Limits")[1]
        assert "Nothing of it was evaluated" not in text
        before = (sampled / "train" / "dataset_card.md").read_text()
        assert text.split("## Evaluation")[0] == before.split("## Evaluation")[0]

    def test_it_stays_until_there_are_other_samples(self, evaluated, trained, lemons, isdm, tmp_path):
        shutil.copytree(evaluated[0], tmp_path / "out")
        values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "split": "train", **FEW}
        assert isdm("sample", **values)[0] == 0
        path = tmp_path / "out/train/dataset_card.md"
        assert path.read_bytes() == (evaluated[0] / "train/dataset_card.md").read_bytes()
        assert isdm("sample", **values, num_samples=COUNT + 1)[0] == 0
        text = check_card(tmp_path / "out/train", COUNT + 1, "Not evaluated in this state")
        assert "No verdict" not in text

    @pytest.fixture
    def update(self, evaluated, own):
        """Write what the evaluation found into the card of `own`; return the lines that are printed."""
        record = json.loads((evaluated[1] / "report.json").read_text())
        return lambda: update_card(find_samples(own), record, ())

    def test_an_edited_card_gets_it_but_an_edited_evaluation_does_not(self, own, update):
        path = own / "train" / "dataset_card.md"
        mine = path.read_text().replace("# Synthetic pairs", "# My pairs", 1)
        path.write_text(mine)
        update()
        after = path.read_text()
        assert "# My pairs" in after
        assert "**No verdict**" in after
        assert not is_untouched(after)
        path.write_text(mine.replace("Nothing of it was evaluated", "I like it"))
        update()
        after = path.read_text()  # the other region, of limits, was not edited
        assert "I like it" in after
        assert "No verdict" not in after
        assert "Not measured: KID" in after
        path.write_text("My own card\n")
        assert "edited" in update()[0]
        assert path.read_text() == "My own card\n"

    def test_samples_without_a_card_get_none(self, own, update):
        (own / "train" / "dataset_card.md").unlink()
        assert update() == []
        assert not (own / "train" / "dataset_card.md").exists()

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows may write anywhere")
    def test_samples_that_may_only_be_read(self, own, update):
        (own / "train").chmod(0o555)
        (line,) = update()
        (own / "train").chmod(0o755)
        assert "cannot be written" in line

    def test_a_verdict_names_no_place_of_the_machine(self):
        study = {
            "headline": "Synthetic data seems to help", "warnings": ["/home/me/data: few images"],
            "architectures": {"fpn": {"verdict": {"line": "fpn: helps"}, "rivals": {"line": "copy_paste: equal"}}},
        }  # fmt: skip
        data = {
            "data_dir": "/home/me/data", "synthetic_dir": "/home/me/data/out", "other_dirs": {"b": "/home/me/b"},
            "images": {"training": 9, "test": 3, "samples": 5}, "digests": {"test": "abcd"}, "image_size": [32, 64],
            "warnings": ["/home/me/data/out: blurred", "/home/me/b: others"],
        }  # fmt: skip
        record = {"data": data, "study": study, "agreement": {"mean": 1}, "distances": {"skipped": "not measured"}}
        regions = evaluated_regions(record, (), "0" * 16)
        verdict, limits = regions["evaluation"].body, regions["limits"].body
        assert "**Synthetic data seems to help**" in verdict
        assert "- fpn: helps\n- copy\\_paste: equal\n" in verdict
        assert "9 training and 3 test images of data" in verdict
        assert "64 x 32 px" in verdict
        assert "warned: data: few images" in limits
        assert "warned: blurred" in limits
        assert "/home" not in verdict + limits
        assert "Not measured: KID" in limits
        assert "whether a segmenter finds" not in limits


class TestExported:
    def test_a_dataset_takes_the_evaluation_along(self, evaluated, isdm, tmp_path):
        values = {"data_dir": evaluated[0] / "train", "format": "coco", "export_path": tmp_path / "coco"}
        code, shown, _ = isdm("export", **values)
        assert code == 0
        assert str(tmp_path / "coco" / "dataset_card.md") in shown
        check_card(tmp_path / "coco", COUNT, "Of the pairs that were exported", "**No verdict**", "`steps` | 2")

    def test_a_real_dataset_is_not_called_synthetic(self, lemons, isdm, tmp_path):
        values = {"data_dir": lemons, "dataset_mode": "multi-class", "format": "voc", "export_path": tmp_path / "voc"}
        assert isdm("export", **values)[0] == 0
        text = check_card(tmp_path / "voc", 12, "12 real", "8 in train, 4 in test", synthetic=False)
        assert "machine-generated" not in text
        assert "nothing to evaluate" in text


class TestWeights:
    def test_the_card_says_what_the_weights_are(self, trained, isdm, tmp_path):
        path = tmp_path / "lemons.safetensors"
        code, shown, _ = isdm("export", model_path=trained, export_path=path)
        assert code == 0
        assert str(tmp_path / "model_card.md") in shown
        text = (tmp_path / "model_card.md").read_text()
        assert is_untouched(text)
        assert ModelCard.load(tmp_path / "model_card.md").data.pipeline_tag == "image-to-image"
        for each in (digest(path), digest(trained / BEST), "lemons, 8 pairs", "| 4 | gangrene |", "Not evaluated"):
            assert each in text
        assert str(tmp_path) not in text + (tmp_path / "lemons.safetensors.json").read_text()
        loaded = load_checkpoint(path)
        weights = load_checkpoint(trained / BEST).weights("ema")
        assert f"{sum(weight.numel() for weight in weights.values()):,}" in text
        # What is exported of an export knows as much.
        assert isdm("export", model_path=path, export_path=tmp_path / "again" / "a.safetensors")[0] == 0
        assert load_checkpoint(tmp_path / "again" / "a.safetensors").trained_on == loaded.trained_on
        assert "lemons, 8 pairs" in (tmp_path / "again" / "model_card.md").read_text()

    def test_the_second_file_of_a_folder_has_a_card_of_its_own(self, trained, isdm, tmp_path):
        for name in ("a.pt", "b.safetensors"):
            assert isdm("export", model_path=trained, export_path=tmp_path / name)[0] == 0
        cards = {path.name for path in tmp_path.glob("*.md")}
        assert cards == {"model_card.md", "b.safetensors.model_card.md"}
        assert "| a.pt," in (tmp_path / "model_card.md").read_text()

    def test_the_verdict_on_samples_of_the_weights(self, trained, evaluated, isdm, tmp_path):
        values = {"model_path": trained, "evaluate_dir": evaluated[1]}
        path = tmp_path / "a.safetensors"
        assert isdm("export", **values, export_path=path)[0] == 0
        text = (tmp_path / "model_card.md").read_text()
        assert "**No verdict**" in text
        assert regions_of(text)["evaluation"].state == digest(trained / BEST)
        code, _, (line,) = isdm("export", **{**values, "model_path": path}, export_path=tmp_path / "sub" / "b.pt")
        assert code == 2
        check_error(line, "evaluate_dir", "another checkpoint")
        assert not (tmp_path / "sub" / "b.pt").exists()

    @pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"data": {}})])
    def test_a_folder_without_a_report(self, trained, isdm, tmp_path, content):
        (tmp_path / "report").mkdir()
        if content is not None:
            (tmp_path / "report" / "report.json").write_text(content)
        values = {"model_path": trained, "evaluate_dir": tmp_path / "report", "export_path": tmp_path / "a.pt"}
        code, _, (line,) = isdm("export", **values)
        assert code == 2
        check_error(line, "evaluate_dir")
        assert not (tmp_path / "a.pt").exists()
