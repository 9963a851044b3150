"""A segmenter that was trained elsewhere, read from a local file: its weights, or a program that holds all of it.

Weights are read without running code. A program is run, and must come from someone trusted: see docs/evaluation.md.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import Counts
from evaluations.published_weights import file_digest, preserve_rng, read_state
from evaluations.segmentation.label_table import NO_CLASS
from evaluations.segmentation.models import InputForm, build_segmenter, check_size, resized, to_input
from evaluations.segmentation.training import evaluate_segmenter
from evaluations.segmentation.weights import misfits_of
from evaluations.sets import ImageSet

Network = Callable[[Tensor], Any]

_EXPORTED = ".pt2"
_LONGEST_REASON = 200  # characters
_TORCHVISION = torchvision.models.list_models(module=torchvision.models.segmentation)
_NAMES = "smp/<architecture>/<encoder> or torchvision/<name>"


@dataclass(frozen=True)
class SegmenterFile:
    """A segmenter that was read and tried out: images float32 [N, 3, h, w] in `form` -> logits [N, outputs, h', w'].

    encoder_of: the model whose `encoder` gives features; None unless it is one of segmentation-models-pytorch.
    digest: of the file's SHA-256. model: its name, "" for a program. size: (height, width) at which it looks.
    """

    network: Callable[[Tensor], Tensor]
    encoder_of: nn.Module | None
    path: Path
    digest: str
    model: str
    form: InputForm
    size: tuple[int, int]
    outputs: int


def read_segmenter(
    file: str, model: str, *, size: tuple[int, int], form: InputForm, device: torch.device
) -> SegmenterFile:
    """Return the segmenter in a local file, in evaluation mode, after it has segmented a few images of noise.

    model: of a file of weights; "" for a program, exported where the name ends in .pt2 and TorchScript otherwise.
    Raises EvaluationError, naming the option, for a file, a model or logits that cannot be used.
    """
    path = Path(file)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise EvaluationError(f"segmenter: {path}: {found}: give a file of weights or a program")
    encoder_of = None
    if model:
        network = _read_weights(path, model).to(device).eval()
        if model.startswith("smp/"):
            encoder_of = network
            check_size(*size, network, option="segmenter_size")
    elif path.suffix == _EXPORTED:
        network = _read_exported(path, device)
    else:
        network = _read_scripted(path, device)
    run, outputs = _probe(network, path, size, form, device)
    return SegmenterFile(run, encoder_of, path, file_digest(path), model, form, size, outputs)


# -------------------------------------------------------------------------------------------------- weights


def _read_weights(path: Path, model: str) -> nn.Module:
    if path.suffix == _EXPORTED or _is_torchscript(path):
        raise EvaluationError(
            f"segmenter_model is {model!r}, but {path} is a program, which is a whole model: leave segmenter_model out"
        )
    build = _builder(model)
    state = read_state(path, "segmenter")
    if all(key.startswith("model.") for key in state):  # of a training module that had the model inside
        state = {key.removeprefix("model."): value for key, value in state.items()}
    with preserve_rng():
        built = build(1, state)
        # The last weights of every one of these models are of the layer that makes the logits.
        last = next(reversed(built.state_dict()))
        if last in state and state[last].shape[:1] != (1,):
            built = build(len(state[last]) if state[last].ndim else 1, state)
    misfits = misfits_of(built, state)
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise EvaluationError(
            f"segmenter: {path} does not fit segmenter_model {model}: {misfits or _reason(error)}; name the model that "
            "it was trained as"
        ) from error
    return built


def _builder(model: str) -> Callable[[int, Mapping[str, Tensor]], nn.Module]:
    """Return what builds a model from its number of outputs and the weights that it is to hold."""
    library, _, name = model.partition("/")
    if library == "smp" and name.count("/") == 1:
        architecture, encoder = name.split("/")

        def build_smp(outputs: int, _: Mapping[str, Tensor]) -> nn.Module:
            try:
                return build_segmenter(architecture, encoder, num_classes=outputs, seed=0)
            except EvaluationError as error:
                raise EvaluationError(f"segmenter_model is {model!r}: {error}") from error

        return build_smp
    if library == "torchvision" and name in _TORCHVISION:

        def build_torchvision(outputs: int, state: Mapping[str, Tensor]) -> nn.Module:
            # Some files have a second head, which only training uses; the small network has none.
            auxiliary = any(key.startswith("aux_classifier.") for key in state)
            more = {"aux_loss": True} if auxiliary and not name.startswith("lraspp") else {}
            return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs, **more)

        return build_torchvision
    if library == "torchvision":
        raise EvaluationError(f"segmenter_model is {model!r}: torchvision has {', '.join(_TORCHVISION)}")
    raise EvaluationError(f"segmenter_model is {model!r}: expected {_NAMES}")


# -------------------------------------------------------------------------------------------------- programs


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _read_scripted(path: Path, device: torch.device) -> Network:
    if not _is_torchscript(path):
        raise EvaluationError(f"segmenter: {path} is no TorchScript program; for weights set segmenter_model, {_NAMES}")
    try:
        with silence_torch():
            return torch.jit.load(path, map_location=device).eval()
    except Exception as error:  # a damaged archive fails in zip, in its parser or in its tensors
        raise _unreadable(path, "TorchScript", error) from error


def _read_exported(path: Path, device: torch.device) -> Network:
    if device.type != "cpu":  # newer than the oldest PyTorch that will do
        from torch.export.passes import move_to_device_pass
    try:
        with silence_torch():
            program = torch.export.load(path)
            if device.type != "cpu":
                program = move_to_device_pass(program, device)
            return program.module()
    except Exception as error:  # as above
        raise _unreadable(path, "an exported program", error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> EvaluationError:
    return EvaluationError(
        f"segmenter: {path} could not be read as {kind} ({_reason(error)}): it is damaged, or of another version of "
        "PyTorch; save it again"
    )


@contextmanager
def silence_torch() -> Iterator[None]:
    """Show neither warnings nor log lines of PyTorch: what goes wrong is told by exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the telling line of an error: TorchScript has a trace above it, others have explanations below."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    traced = isinstance(error, torch.jit.Error) or "TorchScript" in lines[0]
    return lines[-1 if traced else 0].rstrip(".;: ")[:_LONGEST_REASON]


# ------------------------------------------------------------------------------------------------ trying out


def _probe(
    network: Network, path: Path, size: tuple[int, int], form: InputForm, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return the network as a map to checked logits, and the number of its outputs.

    Programs are often exported for batches of one image: where two fail and one does not, images go in one by one.
    """
    noise = torch.randint(256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = to_input(noise.to(device), form)

    def checked(given: Tensor) -> Tensor:
        return _logits(network(given), len(given), path)

    def one_by_one(given: Tensor) -> Tensor:
        return torch.cat([checked(image[None]) for image in given])

    failure: Exception | None = None
    for run in (checked, one_by_one):
        try:
            with torch.inference_mode():
                outputs = [run(images[:count]).shape[1] for count in (2, 1)]
            return run, outputs[0]
        except EvaluationError:
            raise
        except Exception as error:  # a program may raise anything
            failure = failure or error
    assert failure is not None
    raise EvaluationError(
        f"segmenter: {path} fails on images of [{size[0]}, {size[1]}] pixels ({_reason(failure)}): if that is "
        "not its size, set segmenter_size; else save it again, in float32"
    ) from failure


def _logits(output: Any, count: int, path: Path) -> Tensor:
    """Return the logits in what a network gave for `count` images: a tensor, or as torchvision has it in a mapping."""
    found = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != count or not found.is_floating_point():
        given = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(output).__name__
        raise EvaluationError(
            f"segmenter: {path} gives {given} for {count} images, where logits [{count}, classes, height, width] are "
            "expected: save a model that gives these"
        )
    if not found.isfinite().all():
        raise EvaluationError(
            f"segmenter: {path} gives logits that are not finite: its weights are damaged, or segmenter_input is not "
            "what it was trained with"
        )
    return found


# ------------------------------------------------------------------------------------------------ predicting


class ExternalSegmenter(nn.Module):
    """A segmenter from a file for the classes of a dataset.

    classes: of each output the class that it stands for, or NO_CLASS.
    left_out: indices of the classes that no output stands for.
    """

    def __init__(self, file: SegmenterFile, classes: Sequence[int], num_classes: int):
        assert len(classes) == file.outputs
        super().__init__()
        self.file = file
        self.classes = tuple(classes)
        self.num_classes = num_classes
        self.left_out = tuple(sorted(set(range(num_classes)) - set(classes)))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, num_classes + 1, H, W] of images float32 [N, 3, H, W] in the form of the file.

        The last are of none of the classes. Of several outputs of one class the largest counts, so that the most likely
        class is that of the most likely output; a class without output has -inf.
        """
        height, width = images.shape[2:]
        found = self.file.network(resized(images, *self.file.size).contiguous())
        logits = found.new_full((len(images), self.num_classes + 1, height, width), -torch.inf, dtype=torch.float32)
        for output, each in enumerate(self.classes):  # one at a time: 150 of them at full size take much room
            target = logits[:, self.num_classes if each == NO_CLASS else each]
            single = resized(found[:, output : output + 1].float(), height, width)[:, 0]
            torch.maximum(target, single, out=target)
        return logits

    def counts(self, images: ImageSet, batch_size: int, device: torch.device) -> Counts:
        """Return the pixel counts of its predictions on each of `images`.

        Pixels of a class that no output stands for are ignored. What is predicted to be none of the classes is a false
        negative of the true one, and no false positive.
        """
        assert images.num_classes == self.num_classes
        labels = images.labels.astype(np.int32)
        unknown = np.isin(labels, (*self.left_out, self.num_classes))
        extended = ImageSet(
            images.images, np.where(unknown, self.num_classes + 1, labels), images.names, self.num_classes + 1
        )
        found = evaluate_segmenter(self, extended, batch_size, device, self.file.form)
        return Counts(*(pixels[:, : self.num_classes] for pixels in found.columns))
