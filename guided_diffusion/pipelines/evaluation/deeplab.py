"""The DeepLabV3 of `evaluate`: trained epoch by epoch in output_dir, so that an interrupted training goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from evaluations.metrics.base import EvaluationSets
from evaluations.metrics.deeplab import DeepLabResult
from evaluations.published_weights import Weights
from evaluations.segmentation.deeplab import DeepLab, DeepLabScores, DeepLabTraining
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.runtime.checkpoint import read_content, save_checkpoint
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, remove

FOLDER, STATE, WEIGHTS, RESULT = "deeplab", "state.pt", "deeplabv3_resnet101.pt", "result"


def train_deeplab(
    sets: EvaluationSets, *, folder: Path, epochs: int, backbone: Weights | None, seed: int, device: torch.device
) -> DeepLabResult:
    """Return the scores of a model of the samples, trained in `folder`/deeplab unless they are there already.

    Its weights are left there as `segmenter` takes them. Raises ConfigError where the folder has other settings.
    """
    weights = "random" if backbone is None else f"{backbone.path.name} ({backbone.digest})"
    digests = {f"{name}_images": getattr(sets, name).digest for name in ("samples", "training", "test")}
    # A class that no mask has is in the model, and in no digest.
    classes = {"num_classes": sets.samples.num_classes}
    settings = {"deeplab_epochs": epochs, "deeplab_weights": weights, "seed": seed, **classes}
    results = StudyResults(make_folder(folder / FOLDER), settings, digests, what="earlier training")
    # Before the settings are written: those of weights that do not fit would be in the way of the right ones.
    model = None if RESULT in results else DeepLab(sets.samples.num_classes, backbone, seed)
    results.begin()
    if model is not None:
        training = DeepLabTraining(model, sets.samples, sets.training, seed=seed, device=device)
        try:
            _train(training, epochs, results.folder / STATE)
        except FloatingPointError as error:
            raise UserError(f"deeplab: {error}; use another seed, or set deeplab to false") from error
        scores = training.finish(sets.test)
        save_checkpoint(results.folder / WEIGHTS, {"state_dict": model.network.state_dict()})
        results[RESULT] = {**scores.to_json(), "history": training.history, "best_epoch": training.best_epoch}
    remove(results.folder / STATE)
    found = results[RESULT]
    return DeepLabResult(DeepLabScores.from_json(found), tuple(found["history"]), found["best_epoch"], weights)


def _train(training: DeepLabTraining, epochs: int, state: Path) -> None:
    if state.exists():
        training.load_state(read_content(state))
    with tqdm(
        total=epochs * training.steps, initial=len(training.history) * training.steps, desc="DeepLabV3", unit="step"
    ) as bar:

        def progress(loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
            bar.update()

        while len(training.history) < epochs:
            training.run_epoch(progress)
            save_checkpoint(state, training.state())
