from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import processes
import pytest
import torch
from flat_options import noise_process, unet
from PIL import Image

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.guidance import GuidedNetwork
from scripts.benchmark import run as benchmark
from scripts.benchmark import variants
from scripts.benchmark.cases import Case, label_maps, procedural_masks
from scripts.benchmark.forms import (
    FORMS,
    FormsShare,
    crossing,
    label_diffusion_lines,
    measure_label_diffusion,
    measure_threshold,
    threshold_lines,
)
from scripts.benchmark.growth import growth_cases, growth_lines, measure_growth
from scripts.benchmark.published_unet import PublishedUNet, guided
from scripts.benchmark.timing import interleaved, ratio
from scripts.benchmark.variants import perturb

TINY = Case(16, 32, 3, 2)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Networks of one narrow block a level: what is measured of them does not depend on their size."""
    options = {"num_res_blocks": 1, "channel_mult": (1, 1, 1)}
    full = variants.network_options
    monkeypatch.setattr(variants, "network_options", lambda case, *kind, **more: full(case, *kind, **options, **more))


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Run the benchmark in little time: `quick(*arguments)` -> what is in the JSON file."""
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)  # the tests' process is not its own

    def run(*arguments: str) -> dict:
        path = tmp_path / "found.json"
        benchmark.main(
            ["--quick", "--sizes", "16:32:3", "--batch", "1", "--rounds", "2", "--json", str(path), *arguments]
        )
        return json.loads(path.read_text())

    return run


@pytest.mark.slow
def test_writes_table_and_json(quick, capsys, tmp_path):
    report = quick("--parts", "training", "guided", "--device", "cpu")
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == str((tmp_path / "found.json").resolve())
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert {"date", "device_name", "threads", "torch"} <= report["machine"].keys()
    assert report["machine"]["torch"] == torch.__version__
    assert [row["part"] for row in report["results"]] == ["training step", "guided step"]
    for row in report["results"]:
        assert {"reference", "ours", "floor"} <= row["medians"].keys() & row["parameters"].keys()
        assert (row["case"]["size"], row["case"]["batch"]) == (16, 1)
        assert all(len(times) == 2 for times in row["seconds"].values())
        assert {"reference/ours", "ours/floor"} <= row["ratios"].keys()
        for found in row["ratios"].values():
            assert all(math.isfinite(value) and value > 0 for value in (found["value"], *found["quartiles"]))
        assert row["parameters"]["reference"] == row["parameters"]["ours"] > row["parameters"]["floor"]


@pytest.mark.slow
def test_growth():
    cases = {dimension: list(each.values()) for dimension, each in growth_cases(TINY).items()}
    assert [case.classes for case in cases["classes"]] == [2, 6, 19, 60, 151, 182]
    assert [case.size for case in cases["image size"]] == [32, 64, 128, 256]
    told = []
    few = {"2": TINY, "4": replace(TINY, classes=4)}
    growth = measure_growth("classes", few, 1, lambda case, part: told.append(part))
    assert told == ["training"] * 4 + ["guided"] * 4
    assert growth.ratios["training"]["2"].value == 1
    assert len(growth_lines(growth)) == 4


@pytest.mark.slow
def test_threshold(monkeypatch):
    monkeypatch.setattr("scripts.benchmark.forms.NOISE", (0.0, 1.0))
    smooth, noisy = measure_threshold(TINY, 1, lambda case, part: None)
    assert smooth.windows < smooth.distinct < 0.8 < 0.95 < noisy.distinct
    for share in (smooth, noisy):
        assert share.training["lookup"].value == share.guided["lookup"].value == 1
        assert min(share.training[form].value for form in FORMS) > 0
    lines = threshold_lines(TINY, [smooth, noisy])
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_crossing():
    def share(distinct: float, mixed: float) -> FormsShare:
        ratios = {"lookup": ratio([1.0], [1.0]), "mixed": ratio([mixed], [1.0])}
        return FormsShare(0.0, distinct, distinct / 2, ratios, dict.fromkeys(ratios, ratios["lookup"]))

    shares = [share(0.1, 1.5), share(0.2, 1.25), share(0.4, 0.75)]
    assert crossing(shares, "training", "lookup", "mixed", "distinct") == pytest.approx(0.3)
    assert crossing(shares, "training", "lookup", "mixed", "windows") == pytest.approx(0.15)
    assert crossing(shares[:2], "training", "lookup", "mixed", "distinct") is None
    assert crossing(shares[2:], "training", "lookup", "mixed", "distinct") == 0.4


@pytest.mark.slow
def test_label_diffusion(monkeypatch):
    monkeypatch.setattr("scripts.benchmark.forms.STEPS", 2)
    found = measure_label_diffusion(TINY, 1, lambda case, part: None)
    assert set(found) == {"training", "guided"}
    for ratios in found.values():
        assert list(ratios) == [*(f"uniform, {form}" for form in ("auto", *FORMS)), "class-wise, auto"]
        assert all(math.isfinite(value.value) and value.value > 0 for value in ratios.values())
    assert len(label_diffusion_lines(TINY, found)) == 4 + 5


def test_rounds_are_interleaved_in_a_rotating_order():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = interleaved(steps, 3, "cpu")
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio():
    found = ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.quartiles == (2, 2, 2.5)


@pytest.mark.parametrize(("batch", "size", "classes"), [(4, 64, 6), (16, 64, 182), (1, 16, 1)])
def test_procedural_masks_show_all_classes(batch, size, classes):
    maps = procedural_masks(batch, size, classes, objects=12 if classes == 182 else None)
    assert maps.shape == (batch, size, size)
    found = set(np.unique(maps).tolist())
    assert found <= set(range(classes))
    assert len(found) > 0.97 * classes
    assert np.array_equal(maps, procedural_masks(batch, size, classes, objects=12 if classes == 182 else None))


def test_number_of_classes_changes_no_shape():
    few, many = (procedural_masks(2, 32, classes, objects=3) for classes in (2, 60))
    assert np.array_equal(few > 0, many > 0)


def test_masks_of_a_folder(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    maps = label_maps(replace(TINY, masks=str(tmp_path)))
    assert maps.shape == (2, 16, 16)
    assert np.array_equal(np.unique(maps), [0, 1, 2, 3])
    assert (maps[:, 8:, 8:] == TINY.classes).all()
    with pytest.raises(ValueError, match=r"a\.png: .*\b2 classes"):
        label_maps(replace(TINY, masks=str(tmp_path), classes=2))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--sizes", "64:32"], ("'64:32'", "SIZE:CHANNELS:CLASSES")),
        (["--sizes", "64:48:6"], ("num_channels", "48")),
        (["--sizes", "64:32:6", "--batch", "1", "2"], ("--batch",)),
        (["--batch", "0"], ("--batch", "'0'")),
        (["--masks", "no/such/folder"], ("no/such/folder",)),
        (["--device", "gpu"], ("device", "'gpu'", "cpu")),
    ],
)
def test_wrong_arguments(arguments, shown, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last
    assert all(text in last for text in shown), last


ARCHITECTURES = {
    "published": {},
    "heads, no scale-shift, plain resampling": {
        "num_heads": 2, "num_head_channels": -1, "use_scale_shift_norm": False, "resblock_updown": False,
    },
    "new attention order": {"use_new_attention_order": True},
}  # fmt: skip


def maps_of(kind: str, edges: bool) -> SemanticMap:
    generator = torch.Generator().manual_seed(3)
    label = {
        "blocks": torch.randint(0, 5, (2, 4, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2),
        "noise": torch.randint(0, 6, (2, 16, 16), generator=generator),
        "null": torch.full((2, 16, 16), 5),
    }[kind]
    edge = torch.rand(2, 16, 16, generator=generator) < 0.3 if edges else None
    return SemanticMap(label, 5, edge)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blocks", "noise", "null"])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_published_path_gives_our_output(architecture, edges, kind):
    torch.manual_seed(0)
    options = {"num_head_channels": 16, "resblock_updown": True, **ARCHITECTURES[architecture]}
    model = unet(
        image_size=16, num_classes=5, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), no_instance=not edges,
        **options,
    ).eval()  # fmt: skip
    perturb(model)
    published, condition = PublishedUNet(model), maps_of(kind, edges)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 811])
    expected = published(x, t, condition.one_hot())
    assert close(model(x, t, condition), expected)
    denoise = GuidedNetwork(model, noise_process(), condition, scale=1.5)
    assert close(denoise(x, t), guided(published, x, t, condition.one_hot(), 1.5))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_published_path_gives_our_gradient():
    torch.manual_seed(0)
    model = unet(
        image_size=16, num_classes=5, num_channels=32, num_res_blocks=1, channel_mult=(1, 1), num_head_channels=32
    )
    perturb(model)
    published, condition = PublishedUNet(model), maps_of("blocks", edges=False)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 811])
    model(x, t, condition).square().mean().backward()
    published(x, t, condition.one_hot()).square().mean().backward()
    # All together: some are zero but for rounding, as biases before a normalization.
    found, expected = (torch.cat([w.grad.flatten() for w in network.parameters()]) for network in (model, published))
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.slow
def test_latents_are_measured_beside_pixels(quick, capsys):
    processes.serve()
    report = quick("--parts", "--latent", "32:32:3", "--device", "cpu")
    (row,) = report["latent"]
    assert row["case"]["size"] == 32
    assert row["seconds"].keys() == row["memory"].keys() == {"pixels", "latent 4", "latent 8"}
    assert all(len(times) == 2 and min(times) > 0 for times in row["seconds"].values())
    assert all(0.001 < value < 2 for value in row["memory"].values())  # each in a process of its own
    assert row["memory"]["pixels"] > 0.01
    assert row["ratios"].keys() == {"latent 4", "latent 8"}
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 32 px")]
    assert len(table) == 1


@pytest.mark.slow
def test_boxes_are_measured_beside_no_condition(quick, capsys):
    report = quick("--parts", "--layout", "--sizes", "32:32:3", "--device", "cpu")
    row = report["layout"]
    assert [norm["side"] for norm in row["norms"]] == [32, 16, 8]
    assert all(norm["difference"] < 1e-4 for norm in row["norms"])
    assert row["seconds"].keys() == {"floor", "boxes", "stage masks"}
    assert row["guided"].keys() == {"boxes", "stage masks"}
    assert row["product"]["value"] > 1
    assert "| one of each |" in capsys.readouterr().out
