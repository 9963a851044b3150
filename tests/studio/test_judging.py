"""The segmenter of an evaluation at the studio's images, and what `evaluate` refuses of the studio's pairs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from studio_client import studio

from guided_diffusion.pipelines.evaluation.judge import Judge
from guided_diffusion.runtime.errors import DataError, UserError

pytestmark = pytest.mark.slow

NAMES = ("background", "lemon", "blemish", "mould", "gangrene")
QUICK = {
    "architectures": ["fpn"],
    "encoder": "resnet18",
    "encoder_weights": "none",
    "train_steps": 1,
    "batch_size": 2,
    "inception_weights": "none",
    "lpips_weights": "none",
    "near_duplicates": False,
}


@pytest.fixture(scope="module")
def evaluation(trained, lemons, tmp_path_factory):
    """The output_dir of an evaluation that trained a segmenter of 32 px, for a step."""
    import command_line

    root = tmp_path_factory.mktemp("judge")
    sampled = {
        "model_path": trained,
        "data_dir": lemons,
        "num_samples": 2,
        "steps": 1,
        "results_path": root / "samples",
    }
    assert command_line.run("sample", **sampled) == 0
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": root / "samples", "study": False}
    assert command_line.run("evaluate", output_dir=root / "evaluate", **values) == 0
    return root / "evaluate"


@pytest.fixture(scope="module")
def judged(evaluation, trained, lemons, tmp_path_factory):
    results = tmp_path_factory.mktemp("judged")
    with studio(model_path=trained, data_dir=lemons, evaluate_dir=evaluation, results_path=results) as client:
        yield client, results


def test_every_image_gets_its_agreement_beside_that_of_real_ones(judged, evaluation):
    client, _ = judged
    label = client.label()
    name = client.drawn(label, count=2)
    told = [event for event in client.events(name) if event["type"] == "agreement"]
    assert [event["j"] for event in told] == [0, 1]
    report = json.loads((evaluation / "report.json").read_text())["agreement"]["real_test_images"]
    for event in told:
        assert event["classes"].keys() == set(NAMES)
        assert 0 <= event["mean"] <= 1
        assert event["real"]["mean"] == pytest.approx(report["mean"])
    predicted = client.get(f"/api/draws/{name}/0/predicted").label
    assert predicted.shape == label.shape
    assert predicted.max() < len(NAMES)


def test_the_agreement_is_that_of_the_evaluation(evaluation, lemons):
    """Images of the evaluation's own size get the scores that its report has."""
    import torch
    from PIL import Image

    judge = Judge.of_evaluation(evaluation, NAMES, 0, torch.device("cpu"))
    samples = evaluation.parent / "samples"
    report = json.loads((evaluation / "report.json").read_text())["agreement"]["by_sample"]
    for stem, expected in report.items():
        image, mask = (np.array(Image.open(samples / kind / f"{stem}.png")) for kind in ("images", "masks"))
        _, figures = judge.look(image, mask)
        assert figures.mean == pytest.approx(expected["score"])
        assert figures.classes == pytest.approx(expected["iou"])


def test_a_yardstick_can_be_measured(evaluation, judged):
    import torch

    client, _ = judged
    judge = Judge.of_evaluation(evaluation, NAMES, 0, torch.device("cpu"))
    label = client.label("test", 0)
    image = np.zeros((*label.shape, 3), np.uint8)
    _, figures = judge.look(image, label)
    judge.measure([image], [label])
    assert judge.real.mean == pytest.approx(figures.mean)


def test_the_report_opens_once_with_a_ticket(judged, evaluation):
    client, _ = judged
    ticket = client.post("/api/tickets", {"what": "report"}).json["ticket"]
    opening = {"Host": client.host, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}
    answer = client.send("GET", f"/view/{ticket}", headers=opening)
    assert answer.body == (evaluation / "report.html").read_bytes()
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert client.send("GET", f"/view/{ticket}", headers=opening).status == 404


def test_a_folder_that_is_no_evaluation_has_no_judge(lemons, evaluation, tmp_path):
    import torch

    with pytest.raises(DataError, match="output_dir of evaluate"):
        Judge.of_evaluation(lemons, NAMES, 0, torch.device("cpu"))
    for others in (NAMES[:4], (*NAMES[:4], "rot")):
        with pytest.raises(DataError, match="is of other classes"):
            Judge.of_evaluation(evaluation, others, 0, torch.device("cpu"))


def test_weights_of_another_training_judge_nothing(evaluation, tmp_path):
    import torch

    shutil.copytree(evaluation, tmp_path / "evaluation")
    first, second = sorted((tmp_path / "evaluation" / "study").glob("*-0.pt"))
    contents = second.read_bytes(), first.read_bytes()
    first.write_bytes(contents[0])
    second.write_bytes(contents[1])
    with pytest.raises(UserError, match="is of other options or data"):
        Judge.of_evaluation(tmp_path / "evaluation", NAMES, 0, torch.device("cpu"))


def test_evaluate_refuses_masks_begun_from_the_test_split(judged, lemons, tmp_path, isdm):
    client, results = judged
    label = client.label("test", 1).copy()
    label[0:3, 0:3] = 4
    begun = client.drawn(label, start={"split": "test", "index": 1})
    name = client.post("/api/accept", {"draw": begun, "j": 0}).json["name"]
    # Others, begun from training masks and from nothing, do no harm.
    own = client.drawn(np.flipud(label).copy(), count=2)
    for j in range(2):
        client.post("/api/accept", {"draw": own, "j": j})
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": results, "ratios": [0.25], "agreement": False}
    code, _, errors = isdm("evaluate", output_dir=tmp_path / "evaluate", **values)
    assert code == 2
    assert "test split" in errors[0]
    assert name in errors[0]
    assert not (tmp_path / "evaluate" / "study").exists()
    assert client.delete(f"/api/accepted/{name}").status == 204
    code, out, errors = isdm("evaluate", output_dir=tmp_path / "evaluate", **{**values, "study": False})
    assert code == 0, errors
    assert "unknown" not in out


def test_evaluate_finds_a_test_mask_by_its_bytes_too(judged, lemons, tmp_path, isdm):
    """The lineage alone gives it away, should somebody take source_split out of the manifest."""
    client, results = judged
    label = client.label("test", 0).copy()
    label[0:3, 0:3] = 4
    begun = client.drawn(label, count=2, start={"split": "test", "index": 0})
    names = [client.post("/api/accept", {"draw": begun, "j": j}).json["name"] for j in range(2)]
    manifest = results / "train" / "manifest.jsonl"
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace('"source_split": "test", ', ""))
        values = {**QUICK, "data_dir": lemons, "synthetic_dir": results, "ratios": [0.25], "agreement": False}
        code, _, errors = isdm("evaluate", output_dir=tmp_path / "evaluate", **values)
    finally:
        manifest.write_text(before)
    assert code == 2
    assert "made from masks of the test split" in errors[0]
    for name in names:
        client.delete(f"/api/accepted/{name}")


def test_a_segmenter_from_a_file_looks_too(judged, evaluation, trained, lemons, tmp_path):
    """The same weights say the same of an image; the yardstick is measured on the test images."""
    client, _ = judged
    label, head = client.label(), {"seed": 8, "steps": 2}
    ours = next(event for event in client.events(client.drawn(label, **head)) if event["type"] == "agreement")
    chosen = max(
        (evaluation / "study").glob("fpn-*.json"), key=lambda path: json.loads(path.read_text())["validation_miou"]
    )
    values = {"segmenter": chosen.with_suffix(".pt"), "segmenter_model": "smp/fpn/resnet18", "segmenter_size": 32}
    with studio(model_path=trained, data_dir=lemons, results_path=tmp_path, **values) as other:
        assert "judge" not in {each["what"] for each in other.get("/api/run").json["missing"]}
        theirs = next(event for event in other.events(other.drawn(label, **head)) if event["type"] == "agreement")
    assert theirs["classes"] == pytest.approx(ours["classes"])
    assert theirs["mean"] == pytest.approx(ours["mean"])
    assert 0 <= theirs["real"]["mean"] <= 1


def test_a_segmenter_that_cannot_be_used_is_said_on_the_page(trained, lemons, tmp_path):
    file = tmp_path / "segmenter.pt"
    file.write_bytes(b"nothing")
    values = {"segmenter": file, "segmenter_model": "smp/fpn/resnet18", "segmenter_size": 32}
    with studio(model_path=trained, data_dir=lemons, results_path=tmp_path / "out", **values) as client:
        missing = {each["what"]: each["why"] for each in client.get("/api/run").json["missing"]}
        assert "segmenter.pt" in missing["judge"]
        assert client.events(client.drawn(client.label()))[-1] == {"type": "done"}
