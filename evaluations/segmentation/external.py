"""A segmenter that was trained elsewhere, read from a local file: its weights, or a program that is a whole model.

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
from evaluations.published_weights import file_digest, first_detail, one_line, preserve_rng, read_state
from evaluations.segmentation.label_table import NO_CLASS
from evaluations.segmentation.models import InputForm, build_segmenter, check_size, resized, to_input
from evaluations.segmentation.training import evaluate_segmenter
from evaluations.sets import ImageSet

Network = Callable[[Tensor], Any]

_EXPORTED = ".pt2"
_TORCHVISION = torchvision.models.list_models(module=torchvision.models.segmentation)
_NAMES = "smp/<architecture>/<encoder> or torchvision/<name>"


@dataclass(frozen=True)
class SegmenterFile:
    """A segmenter that was read and probed: images float32 [N, 3, h, w] in `form` -> logits [N, outputs, h', w'].

    encoder_of: the model whose `encoder` gives features; None unless it is one of segmentation-models-pytorch.
    digest: of the file's SHA-256. model: its name, "" for a program. size: (height, width) that images are resized to.
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
    """Return the segmenter in a local file, in evaluation mode, after a test on images of noise.

    model: of a file of weights; "" for a program, which is exported if the name ends in .pt2, else TorchScript.
    Raises EvaluationError, naming the option, for a file, a model or logits that cannot be used.
    """
    path = Path(file)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise _error(path, found, "give a file of weights or a program")
    encoder_of = None
    if model:
        network = _read_weights(path, model).to(device).eval()
        if model.startswith("smp/"):
            encoder_of = network
            check_size(*size, network, option="segmenter_size")
    else:
        network = _read_program(path, device)
    run, outputs = _probe(network, path, size, form, device)
    return SegmenterFile(run, encoder_of, path, file_digest(path), model, form, size, outputs)


def _error(path: Path, found: str, remedy: str) -> EvaluationError:
    return EvaluationError("segmenter", found, remedy, path=path)


def _wrong_model(model: str, found: str, remedy: str) -> EvaluationError:
    return EvaluationError("segmenter_model", f"{model}: {found}", remedy)


# -------------------------------------------------------------------------------------------------- weights


def _read_weights(path: Path, model: str) -> nn.Module:
    if path.suffix == _EXPORTED or _is_torchscript(path):
        raise _wrong_model(model, f"{path} is a program, which is a whole model", "leave segmenter_model out")
    state = read_state(path, "segmenter")
    if all(key.startswith("model.") for key in state):  # of a training module that had the model inside
        state = {key.removeprefix("model."): value for key, value in state.items()}
    with preserve_rng():
        built = _build(model, 1, state)
        # The last weights of every one of these models are of the layer that makes the logits.
        last = next(reversed(built.state_dict()))
        if last in state and state[last].shape[:1] != (1,):
            built = _build(model, len(state[last]) if state[last].ndim else 1, state)
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        found = f"does not fit segmenter_model {model} ({first_detail(error)})"
        raise _error(path, found, "name the model that it was trained as") from error
    return built


def _build(model: str, outputs: int, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a model of `outputs` outputs, with random weights, that may hold the weights in `state`."""
    library, _, name = model.partition("/")
    if library == "smp" and name.count("/") == 1:
        architecture, encoder = name.split("/")
        try:
            return build_segmenter(architecture, encoder, num_classes=outputs, seed=0)
        except EvaluationError as error:
            raise _wrong_model(model, error.found, error.remedy) from error
    if library == "torchvision" and name in _TORCHVISION:
        # Some files have a second head, which only training uses; the small network has none.
        auxiliary = any(key.startswith("aux_classifier.") for key in state) and not name.startswith("lraspp")
        more = {"aux_loss": True} if auxiliary else {}
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs, **more)
    choice = f"torchvision has {', '.join(_TORCHVISION)}" if library == "torchvision" else f"expected {_NAMES}"
    raise _wrong_model(model, "unknown model", choice)


# -------------------------------------------------------------------------------------------------- programs


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _read_program(path: Path, device: torch.device) -> Network:
    is_exported = path.suffix == _EXPORTED
    if not is_exported and not _is_torchscript(path):
        raise _error(path, "not a TorchScript program", f"for weights set segmenter_model, {_NAMES}")
    if is_exported and device.type != "cpu":  # newer than the oldest supported PyTorch
        from torch.export.passes import move_to_device_pass
    try:
        with silence_torch():
            if not is_exported:
                return torch.jit.load(path, map_location=device).eval()
            program = torch.export.load(path)
            if device.type != "cpu":
                program = move_to_device_pass(program, device)
            return program.module()
    except Exception as error:  # a damaged archive fails in zip, in its parser or in its tensors
        kind = "an exported program" if is_exported else "TorchScript"
        found = f"could not be read as {kind} ({_reason(error)}): it is damaged, or of another version of PyTorch"
        raise _error(path, found, "save it again") from error


@contextmanager
def silence_torch() -> Iterator[None]:
    """Hide warnings and log lines of PyTorch: exceptions report what goes wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the line of an error that names the cause: the last one below a trace of TorchScript, else the first."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    traced = bool(lines) and (isinstance(error, torch.jit.Error) or "TorchScript" in lines[0])
    return one_line(lines[-1] if traced else error)


# --------------------------------------------------------------------------------------------------- probing


def _probe(
    network: Network, path: Path, size: tuple[int, int], form: InputForm, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return the network as a function to checked logits, and the number of its outputs.

    Programs are often exported for batches of one image: if two images fail and one does not, they go in one by one.
    """
    noise = torch.randint(256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = to_input(noise.to(device), form)

    def checked(given: Tensor) -> Tensor:
        return _logits(network(given), len(given), path)

    def one_by_one(given: Tensor) -> Tensor:
        return torch.cat([checked(image[None]) for image in given])

    failures: list[Exception] = []
    for run in (checked, one_by_one):
        try:
            with torch.inference_mode():
                outputs = [run(images[:count]).shape[1] for count in (2, 1)]
            return run, outputs[0]
        except EvaluationError:
            raise
        except Exception as error:  # a program may raise anything
            failures.append(error)
    found = f"fails on images of [{size[0]}, {size[1]}] pixels ({_reason(failures[0])})"
    remedy = "if that is not its size, set segmenter_size; else save it again, in float32"
    raise _error(path, found, remedy) from failures[0]


def _logits(output: Any, count: int, path: Path) -> Tensor:
    """Return the logits in a network's output for `count` images: a tensor, or `out` of a mapping as in torchvision."""
    logits = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != count or not logits.is_floating_point():
        given = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        expected = f"save a model that gives logits [{count}, classes, height, width]"
        raise _error(path, f"gives {given} for {count} images", expected)
    if not logits.isfinite().all():
        remedy = "check segmenter_input, or use another file: its weights may be damaged"
        raise _error(path, "gives logits that are not finite", remedy)
    return logits


# ------------------------------------------------------------------------------------------------ predicting


class ExternalSegmenter(nn.Module):
    """A segmenter from a file for the classes of a dataset.

    classes: the class that each output stands for, or NO_CLASS. left_out: indices of the classes without an output.
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

        The last one stands for none of the classes. Of several outputs of one class the largest counts, so the most
        likely class is that of the most likely output; a class without output has -inf.
        """
        height, width = images.shape[2:]
        outputs = self.file.network(resized(images, *self.file.size).contiguous())
        logits = outputs.new_full((len(images), self.num_classes + 1, height, width), -torch.inf, dtype=torch.float32)
        for output, each in enumerate(self.classes):  # one at a time: 150 of them at full size take much memory
            target = logits[:, self.num_classes if each == NO_CLASS else each]
            single = resized(outputs[:, output : output + 1].float(), height, width)[:, 0]
            torch.maximum(target, single, out=target)
        return logits

    def counts(self, images: ImageSet, batch_size: int, device: torch.device) -> Counts:
        """Return the pixel counts of its predictions on each of `images`.

        Pixels of classes without an output are ignored. A pixel predicted to be of none of the classes is a false
        negative of its true class, and not a false positive.
        """
        assert images.num_classes == self.num_classes
        labels = images.labels.astype(np.int32)
        unknown = np.isin(labels, (*self.left_out, self.num_classes))
        extended = ImageSet(
            images.images, np.where(unknown, self.num_classes + 1, labels), images.names, self.num_classes + 1
        )
        extended_counts = evaluate_segmenter(self, extended, batch_size, device, self.file.form)
        return Counts(*(pixels[:, : self.num_classes] for pixels in extended_counts.columns))
