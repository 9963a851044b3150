"""The workplace of a studio: everything that its page shows and draws with, opened in two steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.load import load_config, read_config
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.pipeline import SamplingConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.data.files import is_folder
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.visualize import class_palette, evenly_spaced
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, SamplerOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.compilation import compile_network, wants_compiling
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_config
from guided_diffusion.pipelines.masks import encoding_of_mode
from guided_diffusion.pipelines.output import (
    dataset_folders,
    named_folders,
    refuse_other_record,
    refuse_written_sources,
    written_by_sample,
)
from guided_diffusion.pipelines.placing.plan import painting_misfit
from guided_diffusion.pipelines.sample_settings import network_settings
from guided_diffusion.pipelines.sampling import SamplingPipeline, sampling_process
from guided_diffusion.pipelines.studio.bases import GoodImages
from guided_diffusion.pipelines.studio.real_pairs import SPLITS, RealPairs, Shelf
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import ConfigError, DataError, UserError
from guided_diffusion.runtime.logs import read_run_record, write_run_record
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.runtime.nvidia import warn_of_unused_gpu
from guided_diffusion.samples.accepted_folder import MADE_BY, AcceptedFolder

if TYPE_CHECKING:
    from guided_diffusion.pipelines.evaluation.judge import Judge  # imports the metrics: seconds

QUICK_STEPS = 8
"""Steps of what is drawn at the end of a stroke, at most."""
_MEASURED = 64  # real test images whose agreement is the yardstick of a segmenter from a file


@dataclass(eq=False)
class Workplace:
    """What a studio works with. `open` reads everything but the weights, `load` these and the segmenter."""

    config: StudioConfig
    path: Path
    checkpoint: Checkpoint | None
    trained: TrainedConfig
    encoding: LabelEncoding
    device: torch.device
    pairs: RealPairs
    goods: GoodImages
    shelf: Shelf
    accepted: AcceptedFolder
    inpaints: bool
    missing: list[dict[str, str]]
    pipeline: SamplingPipeline | None = None
    judge: Judge | None = None
    """None without one, and before `load`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What manifests record of the network."""

    @classmethod
    def open(cls, config: StudioConfig) -> Self:
        """Read what the page shows; UserError for what cannot be used, and for networks that take no masks."""
        config = with_pinned_weights(config)
        path = find_checkpoint(config.weights.model_path, prefer=BEST)
        device = choose_device(config.precision.device)
        if config.precision.device == "auto" and device.type == "cpu":
            warn_of_unused_gpu()
        checkpoint = load_checkpoint(path, lazily=True)
        trained = trained_config(checkpoint, config)
        _refuse_other_networks(path, trained)
        encoding = encoding_of_checkpoint(checkpoint) or encoding_of_mode(trained.source)
        encoding = encoding.ignoring(config.source.ignore_label)
        if trained.geometry.resize in ("pad", "window"):  # as `sample` writes masks of them
            encoding = encoding.with_ignore()
        trained = trained.replaced(num_classes=encoding.num_classes)
        sampling_process(config.sampler, trained.diffusion)
        data_dir = config.source.data_dir or _training_data_dir(path)
        trained = trained.replaced(data_dir=data_dir)
        _refuse_written_sources(config, trained)
        pairs = RealPairs(trained, encoding, data_dir)
        if config.source.data_dir and not pairs.pairs:
            raise DataError(pairs.problems)
        misfit = painting_misfit(checkpoint, trained)
        goods = GoodImages(config, trained, encoding)
        background = get_mode(trained.source.dataset_mode).background
        accepted = AcceptedFolder(config.results_path, config.split, encoding, mark=config.mark)
        missing = _missing(config, checkpoint, pairs, goods, misfit)
        return cls(
            config, path, checkpoint, trained, encoding, device, pairs, goods,
            Shelf(pairs, encoding, background), accepted, not misfit, missing,
        )  # fmt: skip

    def begin_results(self) -> None:
        """Prepare the folder of accepted pairs, which the caller has locked; UserError where it has other pairs."""
        refuse_other_record("results_path", self.accepted.folder, MADE_BY)
        self.accepted.begin()
        folder, now = self.accepted.folder, self.config.weights.model_path
        before = read_run_record(folder).get("model_path", now)
        if before != now:
            print(f"note: {folder} was used with model_path {before}, and is now with {now}", file=sys.stderr)
        write_run_record(self.accepted.folder, MADE_BY, self.config.fill_from_checkpoint(self.trained).to_json())

    def load(self) -> None:
        """Read the weights and the segmenter; UserError for weights that cannot be used."""
        if self.device.type == "cpu":
            keep_freed_memory()
        assert self.checkpoint is not None
        pipeline = pipeline_of_config(self.config, self.checkpoint, self.trained, self.encoding.names, self.device)
        # By itself ("auto") it would take minutes before the first image.
        if self.config.precision.compile is True and wants_compiling(True, self.device):
            compile_network(pipeline.model)
        self.settings = network_settings(self.config, self.trained, self.checkpoint)
        self.checkpoint = None
        try:
            self.judge = self._judge()
        except UserError as error:
            self.missing.append({"what": "judge", "why": error.messages[0]})
        self.pipeline = pipeline

    def _judge(self) -> Judge | None:
        config = self.config
        if not (config.evaluate_dir or config.segmenter.segmenter):
            return None
        from guided_diffusion.pipelines.evaluation.judge import Judge

        background = get_mode(self.trained.source.dataset_mode).background
        if not config.segmenter.segmenter:
            return Judge.of_evaluation(config.evaluate_dir, self.encoding.names, background, self.device)
        judge = Judge.of_file(config.segmenter, self.size, self.encoding.names, background, self.device)
        chosen = evenly_spaced(range(len(self.pairs.pairs.get("test", ()))), _MEASURED)
        if chosen:
            judge.measure(*([read("test", i) for i in chosen] for read in (self.pairs.image, self.pairs.label)))
        return judge

    @property
    def size(self) -> Size:
        """Height and width that the network sees."""
        return height_width(self.trained.geometry.image_size)

    def label_of(self, raw: bytes, size: Size) -> NDArray[np.integer]:
        """Return the label map [H, W] that the page sent; see `label_of`."""
        return label_of(raw, size, self.encoding)

    @property
    def label_bytes(self) -> int:
        """Bytes of a label on the wire."""
        return np.dtype(self.encoding.dtype).itemsize

    def sample_config(self, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration of a batch of samples into `folder`, in JSON types; UserError where it cannot begin.

        asked: num_samples and seed, and steps, s and sampler, None for those of the studio.
        """
        if not self.pairs.pairs.get(self.config.data_split):
            raise DataError.of("data_dir", f"has no masks of {self.config.data_split}", "give data_dir, or data_split")
        values = {key: value for key, value in self.config.to_json().items() if key in SampleConfig.fields()}
        values |= {
            "model_path": str(self.path.absolute()),
            "data_dir": self.trained.source.data_dir,
            "results_path": str(folder.absolute()),
            "split": "",
            "num_samples": asked["num_samples"],
            "use_ddim": False,  # the sampler itself is named
            "seed": asked["seed"],
        }
        sampler = changed_sampler(self.config.sampler, **{key: asked[key] for key in ("sampler", "steps", "s")})
        sampling_process(sampler, self.trained.diffusion)
        return load_config("sample", {**values, **sampler.model_dump(mode="json", exclude={"use_ddim"})}).to_json()

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know, in JSON types."""
        config, encoding = self.config, self.encoding
        names, palette = encoding.names, class_palette(encoding.num_classes)
        steps = sampling_process(config.sampler, self.trained.diffusion).num_timesteps
        return {
            "name": self.path.parent.name,
            "size": list(self.size),
            "channels": self.trained.geometry.image_channels,
            "label_type": "u8" if encoding.dtype is np.uint8 else "u16",
            "null": null_of(encoding),
            "classes": [
                {"index": index, "name": name, "color": "#{:02x}{:02x}{:02x}".format(*palette[index].tolist())}
                for index, name in enumerate(names)
            ],
            "background": get_mode(self.trained.source.dataset_mode).background,
            "conditional": True,
            "inpaint": self.inpaints,
            "loading": self.pipeline is None,
            "sampler": {
                "sampler": config.sampler.sampler,
                "steps": steps,
                "quick_steps": min(QUICK_STEPS, steps),
                "s": config.sampler.s,
                "seed": config.seed,
                "choices": list(SAMPLER_DEFAULTS),
                "guided": self.guided,
            },
            "limits": {"count": 16, "steps": self.trained.diffusion.diffusion_steps},
            "splits": [{"name": split, "count": len(self.pairs.pairs.get(split, ()))} for split in self._splits],
            "parts": len(self.shelf.parts),
            "goods": len(self.goods.images),
            "sources": self._sources,
            "accepted": len(self.accepted.names),
            "results_path": str(self.accepted.folder.absolute()),
            "missing": self.missing,
        }

    @property
    def _sources(self) -> str:
        """A digest of the files that the numbers of pairs and good images stand for."""
        files = [pair.mask for split in SPLITS for pair in self.pairs.pairs.get(split, ())]
        files += [good.image for good in self.goods.images]
        return sha256("\n".join(map(str, files)).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def _splits(self) -> list[str]:
        """The splits that have pairs, the one to open with first."""
        found = [split for split in SPLITS if split in self.pairs.pairs]
        return sorted(found, key=lambda split: split != self.config.data_split)

    def __post_init__(self) -> None:
        assert self.checkpoint is not None
        self.guided = self.checkpoint.lineage.get("saw_dropped_masks") is not False


def _refuse_other_networks(path: Path, trained: TrainedConfig) -> None:
    if trained.generation.makes_masks:
        found = f"which makes masks of its own (generates {trained.generation.generates})"
    elif trained.model.condition != "mask":
        found = f"which takes no masks (condition {trained.model.condition})"
    else:
        return
    line = f"model_path is {path}, {found}: the studio needs a network of images that follow masks (condition mask)"
    raise ConfigError.of_keys(("model_path", line))


def _training_data_dir(path: Path) -> str:
    """Return the dataset of the training that wrote the checkpoint `path`, "" where it is not known or gone."""
    before = read_run_record(path.parent).get("data_dir")
    return before if isinstance(before, str) and before and "://" not in before and is_folder(before) else ""


def _refuse_written_sources(config: StudioConfig, trained: TrainedConfig) -> None:
    """Raise ConfigError where results would lie among what is read."""
    read = dataset_folders(trained.source)
    read += named_folders({"good_dir": config.good_dir, "evaluate_dir": config.evaluate_dir})
    refuse_written_sources({"results_path": written_by_sample(config.results_path, config.split)}, read)


def _missing(
    config: StudioConfig, checkpoint: Checkpoint, pairs: RealPairs, goods: GoodImages, misfit: str
) -> list[dict[str, str]]:
    """Return what a page cannot offer, and why, in one line each with the remedy."""
    lines: dict[str, str] = {}
    if not pairs.pairs:
        lines["data"] = "give data_dir, the dataset, to begin with its masks"
    if misfit:
        lines["inpaint"] = f"the model is {misfit}"
    elif not goods.images:
        lines["goods"] = "give good_dir, a folder of good images, to paint defects into them"
    if not (config.evaluate_dir or config.segmenter.segmenter):
        lines["judge"] = "give evaluate_dir, the output_dir of evaluate, whose segmenter then looks for each mask"
    folder = Path(config.evaluate_dir) / "report.html" if config.evaluate_dir else None
    if folder is None or not folder.is_file():
        lines["report"] = "give evaluate_dir, the output_dir of evaluate, to open its report"
    if not (checkpoint.path.parent / "metrics.jsonl").is_file():
        lines["training"] = f"{checkpoint.path.parent} is not the folder of a run: give it as model_path"
    return [{"what": what, "why": why} for what, why in lines.items()]


def changed_sampler(
    before: SamplerOptions, *, sampler: str | None, steps: int | None, s: float | None
) -> SamplerOptions:
    """Return `before` with what the page changes of it; ConfigError for what does not go with the rest."""
    values = {key: value for key, value in before if key != "use_ddim"}
    if sampler is not None and sampler != before.sampler:
        values |= {"sampler": sampler, "steps": None, "time_grid": None, "timestep_respacing": "", "eta": 0.0}
    if steps is not None:
        if values["timestep_respacing"] != "":
            values |= {"timestep_respacing": "", "time_grid": None}
        values["steps"] = steps
    values["s"] = values["s"] if s is None else s
    if values["s"] == 1:
        values["guidance_interval"] = None
    return read_config(SamplingConfig, values).sampler


def null_of(encoding: LabelEncoding) -> int | None:
    """Return the id of pixels without a class, None where masks cannot have any."""
    return encoding.num_classes if encoding.ignore_values or encoding.ignore_colors else None


def label_of(raw: bytes, size: Size, encoding: LabelEncoding) -> NDArray[np.integer]:
    """Return the label map [H, W] in little-endian bytes; DataError for another length, and values of no class."""
    kind = np.dtype(encoding.dtype).newbyteorder("<")
    if len(raw) != size[0] * size[1] * kind.itemsize:
        found = f"{len(raw)} bytes for {size[0]} x {size[1]} labels of {kind.itemsize}"
        raise DataError.of("labels", found, "send one label for each pixel")
    label = np.frombuffer(raw, kind).reshape(size).astype(encoding.dtype)
    most = encoding.num_classes - (null_of(encoding) is None)
    if int(label.max()) > most:
        found = f"the value {int(label.max())}, but the classes are 0 to {encoding.num_classes - 1}"
        raise DataError.of("labels", found, "paint with the classes of the page")
    return label
