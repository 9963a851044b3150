"""The training of an autoencoder, and the gate behind it."""

from __future__ import annotations

import signal
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.loader import DistributedBatchPlan, TrainBatch, TrainLoader
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.diffusion.pair_code import PairCode, one_hot_codes
from guided_diffusion.models.autoencoder import Autoencoder, AutoencoderShape, Posterior, Reconstruction
from guided_diffusion.pipelines.dataset import shown_dataset
from guided_diffusion.pipelines.first_stage import held_out_pairs
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import Interrupted
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.runtime.seeding import Stream, step_generators
from guided_diffusion.training.first_stage import (
    FirstStageTrainer,
    class_weights,
    crops,
    first_stage_losses,
)
from guided_diffusion.training.gate import GateCounts, contrast_kept
from guided_diffusion.training.options import FirstStageOptions

CLASSES = 5


@pytest.fixture(scope="module")
def loader(lemons) -> TrainLoader:
    mode, geometry = get_mode("multi-class"), GeometryOptions(image_size=24)
    report = scan_dataset(str(lemons), mode, "train", num_classes=None)
    dataset = shown_dataset(report.pairs, report.encoding, geometry, mode)
    return TrainLoader(dataset, DistributedBatchPlan(len(dataset), 3))


def trainer_of(loader: TrainLoader, saved: list, folder: Path, **options) -> FirstStageTrainer:
    torch.manual_seed(0)
    shape = AutoencoderShape(3, CLASSES, CLASSES, 4, 4, 8)
    code = PairCode(one_hot_codes(CLASSES), CLASSES, 3, 1.0, 1)
    return FirstStageTrainer(
        autoencoder=Autoencoder(shape),
        loader=loader,
        encode=code.encode,
        class_weight=torch.ones(CLASSES),
        background=0,
        crop=16,
        options=FirstStageOptions(autoencoder_steps=7, **options),
        seed=3,
        world=ProcessGroup(0, 1, torch.device("cpu")),
        log=RunLog(folder, enabled=False),
        amp_dtype=None,
        path=folder / "last.pt",
        save=lambda state: saved.append(deepcopy(state)),
    )


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(loader, tmp_path):
    saved: list = []
    whole = trainer_of(loader, [], tmp_path)
    whole.fit()
    stops = 0
    while True:
        trainer = trainer_of(loader, saved, tmp_path)
        if saved:
            trainer.resume(saved[-1])
        if stops == 4:
            trainer.fit()
            break
        trainer.stop.signal_number = int(signal.SIGTERM)  # as if it came in the first step
        with pytest.raises(Interrupted):
            trainer.fit()
        stops += 1
        assert trainer.step == stops
    for first, second in zip(whole.autoencoder.parameters(), trainer.autoencoder.parameters(), strict=True):
        assert torch.equal(first, second)


def test_training_ends_with_the_averaged_weights(loader, tmp_path):
    saved: list = []
    trainer = trainer_of(loader, saved, tmp_path)
    trainer.fit()
    (average,) = saved[-1]["ema"].values()
    state = trainer.autoencoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in average.items())
    assert not torch.equal(saved[-1]["model"]["encoder.0.weight"], state["encoder.0.weight"])


def test_crops_depend_on_their_own_generator_and_often_show_a_rare_class():
    label = torch.zeros(64, 32, 32, dtype=torch.uint8)
    label[:, 30, 1] = 2
    image = torch.arange(32 * 32.0).view(1, 1, 32, 32).repeat(64, 1, 1, 1)
    batch = TrainBatch(image, SemanticMap(label, 3), torch.arange(64), torch.ones(64), 64)
    first = crops(batch, 8, 0, step_generators(Stream.LATENT, (0, 0, 0), range(64)))
    second = crops(batch, 8, 0, step_generators(Stream.LATENT, (0, 0, 0), range(64)))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (64, 1, 8, 8)
    part = TrainBatch(image[5:9], SemanticMap(label[5:9], 3), torch.arange(5, 9), torch.ones(4), 64)
    alone = crops(part, 8, 0, step_generators(Stream.LATENT, (0, 0, 0), range(5, 9)))
    assert torch.equal(alone[0], first[0][5:9])
    shown = (first[1] == 2).flatten(1).any(1).float().mean()
    assert 0.3 < shown < 0.8  # 1 of 16 by chance alone
    rows = first[0][:, 0, 1:, 0] - first[0][:, 0, :-1, 0]
    assert (rows == 32).all()  # squares of the image, unchanged


def test_the_loss_is_zero_for_what_came_through_exactly():
    image, label = torch.rand(2, 1, 8, 8), torch.randint(0, 4, (2, 8, 8))  # 3 is null and has no score
    scores = 60 * torch.nn.functional.one_hot(label, 4).permute(0, 3, 1, 2)[:, :3].float()
    posterior = Posterior(torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2))  # the standard normal distribution
    losses = first_stage_losses(image, label, Reconstruction(image, scores), posterior, torch.ones(3))
    assert losses.shape == (2,)
    assert losses.abs().max() < 1e-6
    wrong = first_stage_losses(image, label, Reconstruction(image + 0.5, scores.flip(1)), posterior, torch.ones(3))
    assert (wrong > 0.5).all()


def test_class_weights_have_mean_one_over_the_pixels():
    shares = torch.tensor([0.9, 0.09, 0.01])
    weights = class_weights(shares)
    assert float((weights * shares).sum()) == pytest.approx(1)
    assert float(weights[2] / weights[0]) == pytest.approx(90**0.5)


def test_scores_without_class_weights_are_the_classes_own_probabilities(tmp_path):
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 4.0, 2.0])
    model = Autoencoder(AutoencoderShape(0, 2, 3, 4, 4, 8))
    z = torch.randn(2, 4, 3, 3)
    before = model.decode(z).scores
    model.undo_class_weights(weights)
    after = model.decode(z).scores
    weighted = after.softmax(1) * weights.view(1, -1, 1, 1)
    assert torch.allclose(weighted / weighted.sum(1, keepdim=True), before.softmax(1), atol=1e-5)


# --- the gate ----------------------------------------------------------------------------------------------------


def label_map() -> torch.Tensor:
    label = torch.zeros(4, 16, 16, dtype=torch.int64)
    label[:, 2:10, 2:10] = 1
    label[:3, 12, 3:15] = 2  # a crack of one pixel
    label[:, 0, 0] = 3  # null
    return label


NAMES = ("good", "spot", "crack")


def test_masks_that_come_through_pass():
    counts = GateCounts(NAMES, 0)
    label = label_map()
    counts.add(label, None, label.clamp(max=2), None)
    gate = counts.gate()
    assert gate.iou == {"good": 1.0, "spot": 1.0, "crack": 1.0}
    assert gate.kept == {"spot": 1.0, "crack": 1.0}
    assert gate.failed(0.95) == []
    assert gate.mean_iou == 1


def test_a_lost_class_fails_and_is_named_first():
    counts = GateCounts(NAMES, 0)
    label = label_map()
    decoded = label.clamp(max=2).clone()
    decoded[decoded == 2] = 0
    decoded[0, 2:10, 2:4] = 0
    counts.add(label, None, decoded, None)
    gate = counts.gate()
    assert gate.iou["crack"] == 0
    assert gate.kept["crack"] == 0
    assert gate.iou["spot"] == pytest.approx(1 - 16 / 256)
    assert gate.failed(0.95) == ["crack", "spot"]
    assert gate.failed(0) == []
    assert "crack" in gate.line()


def test_a_class_in_few_of_its_images_fails_although_the_mean_passes():
    counts = GateCounts(NAMES, 0)
    label = label_map()
    decoded = label.clamp(max=2).clone()
    decoded[0][decoded[0] == 2] = 0
    counts.add(label, None, decoded, None)
    gate = counts.gate()
    assert gate.kept["crack"] == pytest.approx(2 / 3)
    assert gate.failed(0.8) == ["crack"]
    assert gate.mean_iou > 0.8


def test_images_alone_are_judged_by_the_contrast_of_each_class():
    label = label_map()
    image = torch.zeros(4, 1, 16, 16)
    image[(label == 1)[:, None]] = 0.5
    image[(label == 2)[:, None]] = -0.5
    kept, has = contrast_kept(image, image, label == 2)
    assert kept[:3].all()
    assert has.tolist() == [True, True, True, False]
    blurred = image.clone()
    blurred[(label == 2)[:, None]] = -0.1
    counts = GateCounts(NAMES, 0)
    counts.add(label, image, None, blurred)
    gate = counts.gate()
    assert gate.iou == {}
    assert gate.kept == {"spot": 1.0, "crack": 0.0}
    assert gate.failed(0.95) == ["crack"]
    assert gate.psnr == pytest.approx(10 * np.log10(4 / (0.16 * 36 / 1024)), abs=1e-3)


def test_what_does_not_differ_from_its_surroundings_has_no_contrast_to_lose():
    label = label_map()
    _, has = contrast_kept(torch.full((4, 3, 16, 16), 0.2), torch.zeros(4, 3, 16, 16), label == 1)
    assert not has.any()
    _, has = contrast_kept(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
    assert not has.any()  # nothing is around it


def test_a_tenth_is_held_out_with_every_class_that_can_be():
    rng = np.random.default_rng(0)
    present = rng.random((60, 4)) < 0.5
    present[:, 2] = False
    present[[7, 41], 2] = True  # two images
    present[:, 3] = False
    present[11, 3] = True  # one image: it stays in training
    present[:, 0] = True
    held = held_out_pairs(present, 0, 0)
    assert held == held_out_pairs(present, 0, 0)
    assert 6 <= len(held) <= 8
    assert len({7, 41} & set(held)) == 1
    assert 11 not in held
    assert held != held_out_pairs(present, 1, 0)
    assert held_out_pairs(present[:1], 0, 0) == []


def test_what_shows_one_object_is_held_out_as_a_whole():
    rng = np.random.default_rng(0)
    present = rng.random((60, 4)) < 0.5
    present[:, 0] = True
    assert held_out_pairs(present, 0, 0, np.arange(60)) == held_out_pairs(present, 0, 0)
    groups = np.arange(60) // 3
    for seed in range(8):
        held = held_out_pairs(present, seed, 0, groups)
        assert {*groups[held]}.isdisjoint(np.delete(groups, held))
        assert 6 <= len(held) <= 12
        assert present[held].any(0).all()
    assert held_out_pairs(present, 0, 0, np.zeros(60, int)) == []
    large = np.minimum(np.arange(60), 9)  # one group has most of the images
    assert all(len(held_out_pairs(present, seed, 0, large)) < 10 for seed in range(8))
