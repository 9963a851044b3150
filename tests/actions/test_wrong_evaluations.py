"""What can be wrong with an evaluation: one line each, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from error_lines import check_error, check_errors
from PIL import Image

from guided_diffusion.data.lemons import write_demo_dataset

QUICK = {
    "image_size": 32,
    "dataset_mode": "multi-class",
    "architectures": "fpn",
    "encoder": "tu-lcnet_050",
    "encoder_weights": "none",
    "ratios": [1],
    "seeds": 1,
    "train_steps": 1,
    "batch_size": 2,
    "inception_weights": "none",
    "lpips_weights": "none",
}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    """A folder with images/ and masks/ of the lemons' classes, 12 pairs of another seed, and no manifest."""
    folder = tmp_path_factory.mktemp("synthetic") / "lemons"
    write_demo_dataset(folder, num_train=12, num_test=1, size=24, seed=5)
    shutil.copyfile(folder / "classes.json", folder / "train" / "classes.json")
    return folder / "train"


@pytest.fixture
def refused(isdm, lemons, synthetic, tmp_path):
    """Run `evaluate` and return its error lines; it must fail with code 2 and write nothing."""

    def run(**changes) -> list[str]:
        output = tmp_path / "output"
        values = {**QUICK, "data_dir": lemons, "synthetic_dir": synthetic, "output_dir": output, **changes}
        code, _, errors = isdm("evaluate", **values)
        assert code == 2
        assert not output.exists()
        assert errors
        return errors

    return run


@pytest.fixture
def copied(lemons, synthetic, tmp_path) -> tuple[Path, Path]:
    """Copies of the real dataset and of the samples, to be spoiled."""
    real, samples = tmp_path / "real", tmp_path / "samples"
    shutil.copytree(lemons, real)
    shutil.copytree(synthetic, samples)
    return real, samples


@pytest.mark.slow
def test_the_samples_themselves_are_fine(isdm, lemons, synthetic, tmp_path):
    code, shown, errors = isdm(
        "evaluate", data_dir=lemons, synthetic_dir=synthetic, output_dir=tmp_path / "out", **QUICK
    )
    assert (code, errors) == (0, [])
    # Without a manifest nothing tells which masks they were made from.
    assert any(line.startswith("warning: ") and "12 of 12 samples" in line for line in shown.splitlines())
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"synthetic_dir": "nowhere"}, ("nowhere", "sample")),
        ({"other_dirs": "nowhere"}, ("nowhere", "other_dirs")),
        ({"diversity_dir": "nowhere", "lpips_weights": "auto"}, ("nowhere", "diversity_dir")),
        ({"null_dir": "nowhere", "objects": True}, ("nowhere", "null_dir")),
        ({"crop_net": "resnet34"}, ("crop_net", "layouts", "objects")),
        ({"detector_steps": 5, "objects": False}, ("detector_steps", "objects")),
        ({"max_objects": 3}, ("max_objects", "layouts", "objects")),
        ({"min_object_size": 0.1, "objects": False}, ("min_object_size", "objects is false")),
        ({"crop_net": "resnet34", "crop_steps": 0, "objects": True}, ("crop_net", "crop_steps is 0")),
        ({"crop_seeds": 2, "crop_steps": 0, "objects": True}, ("crop_seeds", "crop_steps is 0")),
        ({"lpips_net": "vgg"}, ("lpips_net", 'lpips_weights is "none"')),
        ({"diversity_dir": "several"}, ("diversity_dir", 'lpips_weights is "none"')),
        ({"scale": 0.5}, ("scale is 0.5", "resize is crop", "window")),
        ({"image_size": 48}, ("image_size", "48", "32", "64")),
        ({"image_size": [32, 40]}, ("image_size", "[32, 40]", "[32, 32]")),
        ({"architectures": "unetplusplusplus"}, ("architectures", "'unetplusplusplus'", "unetplusplus")),
        ({"architectures": ""}, ("architectures",)),
        ({"architectures": "fpn,fpn"}, ("architectures", "'fpn'")),
        ({"architectures": "FPN,fpn"}, ("architectures", "'fpn'")),
        ({"encoder": "resnet19"}, ("encoder", "'resnet19'", "resnet18")),
        ({"encoder_weights": "missing.pt"}, ("encoder_weights", "missing.pt", '"none"')),
        ({"inception_weights": "missing.pt"}, ("inception_weights", "missing.pt", '"auto"')),
        ({"lpips_weights": "missing.pt"}, ("lpips_weights", "missing.pt", '"auto"')),
        ({"ratios": [0]}, ("ratios", "0")),
        ({"ratios": [1, 1.0]}, ("ratios", "1")),
        ({"ratios": [2]}, ("ratios", "2", "lemons/train")),
        ({"batch_size": 1}, ("batch_size", "1", "2")),
        ({"validation_share": 1}, ("validation_share", "1", "0.2")),
        ({"filter_below": 2}, ("filter_below", "2")),
        ({"filter_below": 0.5, "agreement": False}, ("filter_below", "agreement")),
        ({"filtered_dir": "x"}, ("filtered_dir", "filter_below")),
        ({"ratio": 1}, ("ratio", "evaluate", "'ratios'")),
        ({"dataset_mode": ""}, ("dataset_mode", "lemons/train", "config.json")),
        ({"dataset_mode": "binary"}, ("{data}/classes.json", "5", "dataset_mode binary")),
        ({"device": "gpu"}, ("device", "'gpu'", "cuda")),
    ],
    ids=str,
)
def test_a_wrong_option(refused, changes, shown, lemons):
    (line,) = refused(**changes)
    assert line.startswith("error: ")
    check_error(line, *(text.format(data=lemons) for text in shown))


@pytest.mark.slow
def test_a_file_that_is_no_weights(refused, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not weights")
    for key in ("encoder_weights", "inception_weights", "lpips_weights"):
        (line,) = refused(**{key: str(path)})
        check_error(line, key, path)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    (line,) = refused(inception_weights=str(path))
    check_error(line, "inception_weights", path, "InceptionV3", "Conv2d_1a_3x3.conv.weight")


def test_encoder_weights_that_cannot_be_fetched(refused, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (line,) = refused(encoder="resnet18", encoder_weights="imagenet")
    check_error(line, "encoder_weights", '"imagenet"', "resnet18", '"none"')


def test_an_empty_folder(refused, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (line,) = refused(synthetic_dir=str(empty))
    check_error(line, empty, "images/", "masks/", "results_path")
    for kind in ("images", "masks"):
        (empty / kind).mkdir()
    check_errors(refused(synthetic_dir=str(empty)), empty / "images", empty / "masks")


def test_no_name_in_common(refused, copied):
    _, samples = copied
    for path in (samples / "masks").iterdir():
        path.rename(path.with_name(f"other{path.name[5:]}"))
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples, "lemon_0000.png", "images/", "masks/")


def test_samples_in_several_sub_folders(refused, synthetic):
    (line,) = refused(synthetic_dir=str(synthetic.parent))
    check_error(line, synthetic.parent, "test, train")


def test_other_classes(refused, copied):
    _, samples = copied
    names = json.loads((samples / "classes.json").read_text())
    names.popitem()
    (samples / "classes.json").write_text(json.dumps(names))
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples / "classes.json", "4 classes", "5 (background, lemon, blemish, mould, gangrene)")


def test_mask_values_of_no_class(refused, copied):
    _, samples = copied
    path = sorted((samples / "masks").iterdir())[0]
    Image.fromarray(np.full((24, 24), 77, np.uint8)).save(path)
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, path, "77")


def test_an_image_of_another_size_than_its_mask(refused, copied):
    _, samples = copied
    path = sorted((samples / "images").iterdir())[0]
    Image.new("RGB", (24, 12)).save(path)
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, path, "24x12", samples / "masks" / path.name, "24x24")


@pytest.mark.parametrize(("where", "least"), [("train", 4), ("test", 2)])
def test_one_real_image(refused, copied, where, least):
    real, _ = copied
    for kind in ("images", "masks"):
        for path in sorted((real / where / kind).iterdir())[1:]:
            path.unlink()
    (line,) = refused(data_dir=str(real))
    check_error(line, real / where, "1 pair", least)


def test_one_sample(refused, copied):
    _, samples = copied
    for kind in ("images", "masks"):
        for path in sorted((samples / kind).iterdir())[1:]:
            path.unlink()
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples, "1 pair", 2)


def test_no_test_split(refused, copied):
    real, _ = copied
    shutil.rmtree(real / "test")
    check_errors(refused(data_dir=str(real)), real / "test")


@pytest.mark.slow
def test_samples_of_test_masks_are_refused_for_the_study_only(isdm, trained, lemons, tmp_path):
    folder = tmp_path / "samples"
    values = {"model_path": trained, "data_dir": lemons, "data_split": "test", "results_path": folder, "steps": 2}
    assert isdm("sample", **values)[0] == 0
    evaluation = {"data_dir": lemons, "synthetic_dir": folder, "output_dir": tmp_path / "out"}
    code, _, errors = isdm("evaluate", **evaluation, **QUICK)
    assert code == 2
    check_error(errors[0], folder, "4 of 4 samples", "data_split", "study")
    code, _, errors = isdm("evaluate", **evaluation, **{**QUICK, "study": False, "agreement": False})
    assert (code, errors) == (0, [])


def test_a_damaged_or_foreign_manifest(refused, copied):
    _, samples = copied
    (samples / "manifest.jsonl").write_text('{"name": "x"}\n')
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples / "manifest.jsonl")
    outside = {"index": 0, "image": "../x.png", "mask": "masks/x.png", "source_mask": "", "source_digest": ""}
    (samples / "manifest.jsonl").write_text(json.dumps(outside) + "\n")
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples / "manifest.jsonl", "'../x.png'")


def test_a_filtered_copy_over_other_files_is_refused(refused, tmp_path, synthetic):
    taken = tmp_path / "taken"
    (taken / "images").mkdir(parents=True)
    (taken / "images" / "mine.png").write_bytes(b"mine")
    (line,) = refused(filter_below=0.1, filtered_dir=str(taken))
    check_error(line, taken / "images" / "mine.png", "filtered_dir")
    assert (taken / "images" / "mine.png").read_bytes() == b"mine"
    before = {path: path.read_bytes() for path in synthetic.rglob("*") if path.is_file()}
    (line,) = refused(filter_below=0.1, filtered_dir=str(synthetic / ".." / synthetic.name))
    check_error(line, "filtered_dir", synthetic / ".." / synthetic.name)
    (line,) = refused(filter_below=0.1, filtered_dir=str(synthetic.parent / "test"))
    check_error(line, synthetic.parent / "test" / "images" / "lemon_0000.png", "filtered_dir")
    (line,) = refused(filter_below=0.1, filtered_dir=str(synthetic))
    check_error(line, "filtered_dir", synthetic)
    assert {path: path.read_bytes() for path in synthetic.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_another_threshold_replaces_the_filtered_copy(isdm, lemons, synthetic, tmp_path):
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": synthetic, "output_dir": tmp_path / "out", "study": False}
    for threshold in (0, 1):
        code, shown, errors = isdm("evaluate", **values, filter_below=threshold)
        assert (code, errors) == (0, [])
        images = list((tmp_path / "out" / "filtered" / "images").iterdir())
        assert f"{len(images)} of 12" in shown
        assert threshold or len(images) == 12
    assert len(images) < 12


def test_samples_that_are_not_finished(refused, copied):
    _, samples = copied
    (samples / ".synthetic").touch()
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples, "sample")


def test_classes_written_otherwise(refused, copied):
    _, samples = copied
    names = list(json.loads((samples / "classes.json").read_text()).values())
    swapped = {str(index): {"name": name, "value": (index + 1) % 5} for index, name in enumerate(names)}
    (samples / "classes.json").write_text(json.dumps(swapped))
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples / "classes.json", "(1,), (2,)", "(0,), (1,)")


def test_test_masks_are_recognized_without_a_manifest(refused, copied, lemons):
    _, samples = copied
    for path in (lemons / "test" / "masks").iterdir():
        with Image.open(path) as mask, Image.open(lemons / "test" / "images" / path.name) as image:
            mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(samples / "masks" / f"test_{path.name}")
            image.save(samples / "images" / f"test_{path.name}")
    (line,) = refused(synthetic_dir=str(samples))
    check_error(line, samples, "4 of 16 samples", "data_split", "study")


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", "64"), ("image_size", [64]), ("resize", "stretch"), ("dataset_mode", 3)]
)
def test_a_record_of_sampling_that_says_nonsense(refused, copied, key, value):
    _, samples = copied
    (samples / "config.json").write_text(json.dumps({key: value}))
    left_open = {"dataset_mode": ""}.get(key)
    (line,) = refused(**{"synthetic_dir": str(samples), key: left_open})
    check_error(line, key, *([json.dumps(value)] if key != "dataset_mode" else ["3"]))


def test_the_folder_of_another_run_is_not_written_to(isdm, lemons, synthetic, trained):
    before = (trained / "config.json").read_bytes()
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": synthetic, "output_dir": trained}
    code, _, errors = isdm("evaluate", **values)
    assert code == 2
    (line,) = errors
    check_error(line, "output_dir", trained, "train")
    assert (trained / "config.json").read_bytes() == before


@pytest.mark.slow
def test_results_without_their_settings_are_not_taken(isdm, lemons, synthetic, tmp_path):
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": synthetic, "output_dir": tmp_path / "out", "rivals": False}
    values |= {"agreement": False, "memorisation": False, "synthetic_only": False}
    assert isdm("evaluate", **values)[0] == 0
    settings = tmp_path / "out" / "study" / "settings.json"
    content = settings.read_text()
    settings.unlink()
    code, _, errors = isdm("evaluate", **values)
    assert code == 2
    check_error(errors[0], tmp_path / "out" / "study", "settings.json", "output_dir")
    settings.write_text(content)
    path = next((synthetic / "images").iterdir())
    before = path.read_bytes()
    Image.new("RGB", (24, 24)).save(path)
    code, _, errors = isdm("evaluate", **values)
    path.write_bytes(before)
    assert code == 2
    check_error(errors[0], "samples", tmp_path / "out" / "study", "output_dir")


@pytest.mark.slow
def test_a_damaged_result_is_named(isdm, lemons, synthetic, tmp_path):
    values = {**QUICK, "data_dir": lemons, "synthetic_dir": synthetic, "output_dir": tmp_path / "out", "rivals": False}
    values |= {"memorisation": False, "synthetic_only": False}
    assert isdm("evaluate", **values)[0] == 0
    result = tmp_path / "out" / "study" / "fpn-real-0.json"
    sound = result.read_text()
    result.write_text(sound[:50])
    code, _, errors = isdm("evaluate", **values)
    assert code == 2
    (line,) = errors
    check_error(line, result, "delete")
    result.write_text(sound)
    models = sorted((tmp_path / "out" / "study").glob("*.pt"))
    assert [model.stem for model in models] == ["fpn-augmented-0", "fpn-real-0"]
    sound = [model.read_bytes() for model in models]
    for contents in ([content[:1000] for content in sound], sound[::-1]):  # cut off, and each that of the other
        for model, content in zip(models, contents, strict=True):
            model.write_bytes(content)
        code, _, errors = isdm("evaluate", **values)
        assert code == 2
        (line,) = errors
        check_error(line, next(model for model in models if str(model) in line), "delete")
    for model in models:
        model.unlink()
    assert isdm("evaluate", **values)[0] == 0


@pytest.mark.slow
def test_borders_of_padded_samples_are_of_no_class(isdm, copied, tmp_path):
    real, samples = copied
    for path in (samples / "masks").iterdir():
        with Image.open(path) as mask:
            label = np.array(mask)
        label[:4] = label[-4:] = 255
        Image.fromarray(label).save(path)
    (samples / "classes.json").unlink()
    values = {**QUICK, "data_dir": real, "synthetic_dir": samples, "study": False, "agreement": False}
    code, _, errors = isdm("evaluate", **values, output_dir=tmp_path / "cropped")
    assert code == 2
    (line,) = errors
    check_error(line, samples / "masks" / "lemon_0000.png", "255", "lemon_0001.png")
    code, _, errors = isdm("evaluate", **values, resize="pad", output_dir=tmp_path / "padded")
    assert (code, errors) == (0, [])


@pytest.mark.slow
def test_binary_masks_of_0_and_255(isdm, copied, tmp_path):
    real, samples = copied
    (real / "classes.json").unlink()
    (samples / "classes.json").unlink()
    for path in [*real.glob("*/masks/*"), *samples.glob("masks/*")]:
        with Image.open(path) as mask:
            label = np.array(mask)
        Image.fromarray(np.where(label > 0, 255, 0).astype(np.uint8)).save(path)
    values = {**QUICK, "dataset_mode": "binary", "data_dir": real, "synthetic_dir": samples, "study": False}
    code, _, errors = isdm("evaluate", **values, output_dir=tmp_path / "out")
    assert (code, errors) == (0, [])
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(record["agreement"]["samples"]["classes"]) == {"background", "foreground"}
