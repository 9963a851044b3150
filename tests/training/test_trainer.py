"""The trainer: what is saved is what goes on, bit for bit, whatever interrupted it."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch

from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint
from guided_diffusion.runtime.errors import Interrupted, UserError


def final_state(trainer) -> dict[str, torch.Tensor]:
    state = {f"model.{name}": value.clone() for name, value in trainer.model.state_dict().items()}
    for rate, weights in trainer.ema.state_dict().items():
        state |= {f"ema.{rate}.{name}": value.clone() for name, value in weights.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value.clone() for name, value in moments.items()}
    return state


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different[:5]


def learned(history: list[dict]) -> list[dict]:
    """The history without what depends on the machine."""
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "peak_memory_gib")} for line in history]


EVERYTHING_RANDOM = {"dropout": 0.1, "drop_rate": 0.3, "vertical_flip": True, "rotate90": True, "cond_diffuse": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "stop_after"),
    [("stratified", 1), ("uniform", 4), ("loss-second-moment", 5)],
)
def test_interrupted_and_resumed_equals_uninterrupted(trainer_for, sampler, stop_after):
    """8 images in batches of 3: steps 1, 4 and 5 are within an epoch, 3 and 6 would end one."""
    options = {**EVERYTHING_RANDOM, "schedule_sampler": sampler, "diffusion_steps": 30, "max_epochs": 3}
    whole = trainer_for("whole", **options)
    whole.fit()

    first = trainer_for("parts", **options)
    step = first.train_step

    def stop_later(batch):
        step(batch)
        if first.progress.step == stop_after:
            signal.raise_signal(signal.SIGTERM)

    first.train_step = stop_later
    with pytest.raises(Interrupted) as caught:
        first.fit()
    assert caught.value.signal_number == signal.SIGTERM
    second = trainer_for("parts", **options)
    # The signal arrives after a step's sums were exchanged, so that one more step is taken.
    assert second.progress.step == stop_after + 1
    second.fit()
    assert_identical(final_state(whole), final_state(second))
    assert learned(second.progress.history) == learned(whole.progress.history)
    assert second.progress.best_epoch == whole.progress.best_epoch
    best = [load_checkpoint(trainer.folder / BEST) for trainer in (whole, second)]
    assert_identical(best[0].model, best[1].model)
    assert_identical(best[0].ema["0.99"], best[1].ema["0.99"])


@pytest.mark.slow
@pytest.mark.parametrize("max_epochs", [1, 2])
def test_a_run_saved_after_its_last_step_is_finished_by_the_next_start(trainer_for, max_epochs):
    """Then no step is left, but the end of the epoch, which may be the best one."""
    options = {"max_epochs": max_epochs, "lr": 1e-3}
    whole = trainer_for("whole", **options)
    whole.fit()
    first = trainer_for("parts", **options)
    step, last_but_one = first.train_step, 3 * max_epochs - 1

    def stop_later(batch):
        step(batch)
        if first.progress.step == last_but_one:
            signal.raise_signal(signal.SIGTERM)

    first.train_step = stop_later
    with pytest.raises(Interrupted):
        first.fit()
    second = trainer_for("parts", **options)
    assert second.progress.step == last_but_one + 1
    second.fit()
    for name in (LAST, BEST):
        assert (second.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.slow
def test_an_interrupted_epoch_begins_anew_with_other_batches(trainer_for, capsys):
    """Position 2 of 3 batches means nothing where an epoch has 2: images would be left out or seen twice."""
    first = trainer_for(batch_size=3, max_epochs=2)
    step = first.train_step

    def stop(batch):
        signal.raise_signal(signal.SIGINT)
        step(batch)

    first.train_step = stop
    with pytest.raises(Interrupted) as caught:
        first.fit()
    assert caught.value.signal_number == signal.SIGINT
    assert first.progress.batch == 1
    state = load_checkpoint(first.folder / LAST)
    second = trainer_for("other", batch_size=4, max_epochs=2)
    second.model.load_state_dict(state.model)
    second.resume(state)
    assert second.progress.batch == second.progress.images == 0
    assert second.progress.step == 1
    second.fit()
    assert second.progress.step == 1 + 2 * 2


@pytest.mark.slow
def test_a_run_whose_last_step_is_bad_is_saved(trainer_for):
    trainer = trainer_for(max_epochs=2)
    poison(trainer, range(5, 6))
    trainer.fit()
    last = load_checkpoint(trainer.folder / LAST)
    assert last.progress["epoch"] == 2
    assert last.progress["step"] == 5


@pytest.mark.slow
def test_best_is_the_epoch_of_the_lowest_mean_loss(trainer_for):
    trainer = trainer_for(max_epochs=4)
    progress = trainer.fit()
    assert [line["images"] for line in progress.history] == [8] * 4
    means = np.cumsum([line["loss"] for line in progress.history]) / [1, 2, 3, 4]  # 32 images are few
    assert progress.best_loss == pytest.approx(means.min(), rel=1e-12)
    assert progress.best_epoch == 1 + means.argmin()
    best, last = load_checkpoint(trainer.folder / BEST), load_checkpoint(trainer.folder / LAST)
    assert best.progress["epoch"] == progress.best_epoch
    assert not best.resumable
    assert last.resumable
    assert last.progress["epoch"] == 4


@pytest.mark.slow
def test_training_learns(trainer_for):
    progress = trainer_for(max_epochs=12, lr=4e-3, learn_sigma=False).fit()
    losses = [line["loss"] for line in progress.history]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.slow
def test_disk_use_does_not_grow(trainer_for):
    trainer = trainer_for(max_epochs=3)
    trainer.fit()
    assert {path.name for path in trainer.folder.iterdir()} == {BEST, LAST}


@pytest.mark.slow
def test_microbatches_give_the_same_gradient(trainer_for):
    gradients = []
    for microbatch in (-1, 1, 2):
        trainer = trainer_for(f"micro{microbatch}", microbatch=microbatch, batch_size=5, drop_rate=0.5, dropout=0.0)
        batch = next(iter(trainer.loader.epoch(0)))
        trainer.train_step(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_learning_rate_falls_to_nothing_and_training_ends_there(trainer_for):
    trainer = trainer_for(lr_anneal_steps=7, max_epochs=100, lr=1e-3)
    progress = trainer.fit()
    assert progress.step == 7
    assert math.isclose(progress.history[-1]["lr"], 1e-3 / 7)
    assert trainer.finished


def test_gradients_are_clipped(trainer_for):
    trainer = trainer_for(grad_clip=1e-3)
    trainer.train_step(next(iter(trainer.loader.epoch(0))))
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


OTHERWISE = {"learn_sigma": False, "use_checkpoint": True}


def poison(trainer, steps: range) -> None:
    """Make the images of some steps non-finite, as a broken file or an overflow would."""
    original = trainer.train_step
    counter = iter(range(10_000))

    def step(batch):
        if next(counter) in steps:
            batch.image[0, 0, 0, 0] = math.nan
        original(batch)

    trainer.train_step = step


@pytest.mark.slow
def test_a_bad_step_is_skipped_and_counted(trainer_for):
    trainer = trainer_for(max_epochs=2)
    poison(trainer, range(1, 2))
    progress = trainer.fit()
    assert progress.step == 5
    assert [line["bad_steps"] for line in progress.history] == [1, 0]
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert all(math.isfinite(line["loss"]) for line in progress.history)


@pytest.mark.slow
def test_a_preview_that_cannot_be_drawn_does_not_end_a_training(trainer_for):
    options = {"precision": "fp16", "max_epochs": 2, "preview_steps": 1, "preview_images": 1}
    trainer = trainer_for(**options, preview_interval=1)
    with torch.no_grad():
        trainer.model.input_blocks[0][0].weight.mul_(1e6)  # beyond the range of fp16: each step is skipped
    progress = trainer.fit()
    assert progress.epoch == 2
    assert [line["bad_steps"] for line in progress.history] == [3, 3]
    assert load_checkpoint(trainer.folder / LAST).progress["epoch"] == 2
    assert trainer.model.training


@pytest.mark.slow
def test_many_bad_steps_stop_training_and_keep_the_last_good_checkpoint(trainer_for):
    trainer = trainer_for(max_epochs=4, max_bad_steps=3)
    trainer._save_seconds = 0.0
    poison(trainer, range(4, 100))
    with pytest.raises(UserError) as caught:
        trainer.fit()
    assert caught.value.collective
    assert str(caught.value).startswith("max_bad_steps: 3 ")
    last = load_checkpoint(trainer.folder / LAST)
    assert last.progress["step"] == 3
    assert all(torch.isfinite(value).all() for value in last.model.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [{"precision": "bf16"}, *(pytest.param({k: v}, marks=pytest.mark.slow) for k, v in OTHERWISE.items())],
    ids=str,
)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_every_prediction_trains(trainer_for, prediction, values):
    progress = trainer_for(max_epochs=1, prediction=prediction, min_snr_gamma=5.0, **values).fit()
    assert progress.step == 3
    assert math.isfinite(progress.best_loss)


@pytest.mark.slow
def test_rectangles_gray_images_and_edges_train(trainer_for):
    trainer = trainer_for(max_epochs=1, image_size=[16, 32], image_channels=1, no_instance=False)
    assert trainer.fit().step == 3
    assert trainer.model.conditioner.channels == 6
