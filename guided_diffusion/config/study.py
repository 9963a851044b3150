"""Configuration of `study`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from guided_diffusion.data.options import Channels, SourceOptions
from guided_diffusion.data.placing.options import ClassNames
from guided_diffusion.runtime.options import ActionConfig, IntTuple, NameList, OptionGroup, Problem, option
from guided_diffusion.training.options import DeviceOptions

REAL, REAL_GOOD, COPY_PASTE, POISSON, PLACE, SDM = "real", "real_good", "copy_paste", "poisson", "place", "sdm"
MIXED = "mixed"
"""Placed and Poisson-blended defects in turn: whether painting adds something to what costs no training."""
REPAINT = "repaint"
"""Pasted defects that the network paints over from a little noise: `place` with `paste_noise`."""
UNAUGMENTED = "unaugmented"
"""Real and good images without the usual augmentation: where that hurts, no arm can be judged."""
ARMS = (REAL, UNAUGMENTED, REAL_GOOD, COPY_PASTE, POISSON, PLACE, REPAINT, MIXED, SDM)
COPIED = (COPY_PASTE, POISSON)
"""The arms of training defects that are pasted, which needs no generator."""
PLACED = (PLACE, MIXED)
"""The arms that need a folder of `place` with the settings of `place_config` alone."""
INPAINTED = (*PLACED, REPAINT)
"""The arms that need a generator that fills holes."""
GENERATED = (*INPAINTED, SDM)
"""The arms that need a trained generator."""


def _amount(value: Any) -> Any:
    """Read "all" as None and digits as a number; leave the rest for pydantic to refuse."""
    if isinstance(value, str):
        text = value.strip().lower()
        return None if text == "all" else int(text) if text.isdecimal() else value
    return value


def _amounts(value: Any) -> Any:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    elif not isinstance(value, list | tuple):
        value = [value]
    return tuple(_amount(part) for part in value)


_Number = Annotated[int, Field(ge=1)]
_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["all"]}, {"type": "null"}]}
Amount = Annotated[_Number | None, BeforeValidator(_amount), WithJsonSchema(_SCHEMA)]
Amounts = Annotated[
    tuple[_Number | None, ...],
    BeforeValidator(_amounts),
    WithJsonSchema({"anyOf": [{"type": "array", "items": _SCHEMA}, *_SCHEMA["anyOf"], {"type": "string"}]}),
]


class DesignOptions(OptionGroup):
    """What is compared, and how often."""

    title: ClassVar = "design"
    arms: NameList = option(
        ARMS,
        "what models are trained on; the first there of place, repaint, copy_paste and poisson is judged against "
        "real_good. Only place, repaint, mixed and sdm need a generator",
    )
    amounts: Amounts = option(
        (20, 60, None), 'annotated images: numbers and "all"; the generator of each amount is trained on these alone'
    )
    seeds: IntTuple = option((3,), "trainings of each arm, each with its own seed: one number, or one an amount")
    pairs: int = option(200, "synthetic images of each arm", ge=1, le=1_000_000)
    synthetic_share: float = option(
        0.5,
        "share of the crops on defects that lie in synthetic images, where these show a class as often as real ones",
        gt=0,
        lt=1,
    )
    good_share: float = option(
        0.5, "share of the crops anywhere that lie in good images, outside of arm real", gt=0, lt=1
    )
    repaint_noise: float = option(0.1, "paste_noise of arm repaint", gt=0)
    real_last: float = option(
        0.0, "share of the steps, the last ones, that draw no synthetic images: a curriculum", ge=0, lt=1
    )
    other_amount: Amount = option(None, 'amount at which all architectures but the first are trained; null: "all"')

    def check(self) -> Iterator[Problem]:
        if not self.arms:
            yield ("arms", f"arms is empty: give some of {', '.join(ARMS)}")
        for arm in dict.fromkeys(self.arms):
            if arm not in ARMS:
                yield ("arms", f"arms has {arm!r}, which is unknown: give some of {', '.join(ARMS)}")
            elif self.arms.count(arm) > 1:
                yield ("arms", f"arms has {arm!r} twice: keep one")
        if not self.amounts:
            yield ("amounts", 'amounts is empty: give at least one, such as "20,60,all"')
        if len(set(self.amounts)) < len(self.amounts):
            yield ("amounts", f"amounts is {amount_list(self.amounts)}, with one amount twice: keep one")
        if REPAINT not in self.arms and self.changed("repaint_noise"):
            line = "repaint_noise is given, but arms has no repaint: leave it out, or add repaint to arms"
            yield ("repaint_noise", line)
        seeds = self.seeds or ()
        if not seeds or min(seeds) < 1:
            yield ("seeds", f"seeds is {list(seeds)}: give numbers of at least 1, such as 3")
        elif len(seeds) not in (1, len(self.amounts)):
            found = f"seeds has {len(seeds)} numbers, but amounts has {len(self.amounts)}"
            yield ("seeds", f"{found}: give one for each amount, or one for all")

    @property
    def repeats(self) -> dict[int | None, int]:
        """The number of trainings of each amount, small amounts first."""
        seeds = self.seeds * len(self.amounts) if len(self.seeds) == 1 else self.seeds
        paired = dict(zip(self.amounts, seeds, strict=True))
        return {amount: paired[amount] for amount in sorted(paired, key=lambda each: (each is None, each or 0))}


def amount_name(amount: int | None) -> str:
    """Return an amount in words: a number, or "all"."""
    return "all" if amount is None else str(amount)


def amount_list(amounts: tuple[int | None, ...]) -> str:
    """Return amounts as the option takes them."""
    return ",".join(map(amount_name, amounts))


class CropSegmenterOptions(OptionGroup):
    """The segmentation models, and how they are trained by crops."""

    title: ClassVar = "segmentation models"
    architectures: NameList = option(
        ("unet",), "models by their names in segmentation-models-pytorch; the first is trained on everything"
    )
    encoder: str = option("resnet34", "encoder of all models, as segmentation-models-pytorch and timm (tu-...) name it")
    encoder_weights: str = option(
        "imagenet",
        'where the encoder starts: a name to download, a local file, or "none" for random weights',
        words=True,
    )
    crop: int = option(128, "side of the crops, in pixels at scale; a multiple of 32 for most encoders", ge=32, le=4096)
    steps: int = option(1500, "optimization steps of each model, the same for all arms", ge=1, le=10_000_000)
    batch_size: int = option(8, "crops a step takes", ge=2, le=65536)
    lr: float = option(1e-3, "largest learning rate of AdamW", gt=0)
    encoder_lr: float = option(3e-4, "largest learning rate of the encoder", gt=0)
    num_workers: int | None = option(
        None, "processes that draw crops; null: none on CPU, up to 4 beside a GPU", ge=0, le=256
    )
    vertical_flip: bool = option(True, "the usual augmentation may flip crops upside down, too")

    def check(self) -> Iterator[Problem]:
        if not self.architectures:
            yield ("architectures", "architectures is empty: give at least one, such as unet")
        for name in {name for name in self.architectures if self.architectures.count(name) > 1}:
            yield ("architectures", f"architectures has {name!r} twice: keep one")


_OF_SYNTHETIC = ("pairs", "synthetic_share", "real_last", "inception_weights")
"""Keys that nothing uses where no arm has synthetic images."""


class StudyConfig(ActionConfig):
    """Keys of `study`."""

    required: ClassVar = ("data_dir", "dataset_mode", "good_dir", "output_dir")
    summary: ClassVar = "do defects pasted or painted into good images help a segmentation model? trains and compares"
    common: ClassVar = (
        "data_dir", "dataset_mode", "good_dir", "output_dir", "train_config", "place_config",
        "arms", "amounts", "seeds", "pairs", "architectures", "encoder", "encoder_weights", "at_once", "estimate_only",
    )  # fmt: skip

    source: SourceOptions
    design: DesignOptions
    segmenter: CropSegmenterOptions
    compute: DeviceOptions
    good_dir: str = option(
        "",
        "folder of good images: with train/ and test/, or of those for training where good_test_dir is given",
        path=True,
    )
    good_test_dir: str = option("", "folder of good images for the test, none of them in good_dir", path=True)
    output_dir: str = option("", "folder for the generators, the results, report.html and report.json", written=True)
    train_config: str = option(
        "", "config of train for the generators (windows, inpaint); the study sets its folders and its seed", path=True
    )
    place_config: str = option(
        "", "config of place, for its steps, guidance and masks; the study sets its folders and number", path=True
    )
    defect_classes: ClassNames = option(
        None,
        "names of the classes that are defects, which models are scored on; null: as in place_config, else all but the "
        "background, unlabeled pixels, and the objects that the defects lie on",
    )
    image_channels: Channels | None = option(None, "1 for gray images, 3 for RGB; null: as in train_config")
    scale: float | None = option(None, "size of the images that are segmented; null: as in train_config", gt=0, le=1)
    inception_weights: str = option(
        "none", 'for KID, precision and recall: "auto" (download), a local file, or "none": the encoder', words=True
    )
    at_once: int = option(
        1,
        "generators and models that are trained at the same time, each by its own process; on one GPU they take turns",
        ge=1,
        le=64,
    )
    estimate_only: bool = option(False, "say how long the study will take, and stop")
    report_images: int = option(2, "defects of each class in the report's picture", ge=1, le=20)
    seed: int = option(0, "seed of everything random", ge=0, lt=2**63)

    @property
    def idle(self) -> list[str]:
        """What to say of keys that are given and that no arm uses, as of a shared config."""
        arms = set(self.design.arms)
        lines = [
            "" if arms & {*COPIED, *GENERATED} else self.left_aside("no arm has synthetic images", *_OF_SYNTHETIC),
            "" if arms & {*COPIED, PLACE, REPAINT} else self.left_aside("no arm has defects to show", "report_images"),
            "" if arms - {REAL} else self.left_aside("no arm has good images", "good_share"),
            "" if arms - {UNAUGMENTED} else self.left_aside("no arm is augmented", "vertical_flip"),
            "" if self.segmenter.architectures[1:] else self.left_aside("there is one architecture", "other_amount"),
        ]
        return list(filter(None, lines))

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        late = round(self.design.real_last * self.segmenter.steps)
        if self.design.real_last and not 0 < late < self.segmenter.steps:
            found = f"real_last is {self.design.real_last:g} of {self.segmenter.steps} steps, which is"
            yield ("real_last", f"{found} {'all' if late else 'none'} of them: give another share, or 0")
        if not self.train_config and (needing := [arm for arm in self.design.arms if arm in GENERATED]):
            line = f"train_config is missing: arms has {', '.join(needing)}, which a generator makes"
            yield ("train_config", f"{line}; give the config of its training, or other arms")
        if len(self.segmenter.architectures) > 1 and self.design.other_amount not in self.design.amounts:
            found = f"other_amount is {amount_name(self.design.other_amount)}, but amounts is "
            yield ("other_amount", f"{found}{amount_list(self.design.amounts)}: give one of these")
        if self.good_test_dir and self.good_test_dir == self.good_dir:
            yield ("good_test_dir", "good_test_dir is good_dir: the test needs other good images than training")
