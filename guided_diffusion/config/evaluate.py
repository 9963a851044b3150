"""Configuration of `evaluate`: the downstream study, the quality of the samples, an external segmenter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from guided_diffusion.data.options import (
    BoxOptions,
    Channels,
    GeometryOptions,
    ImageRangeOption,
    ImageSize,
    SourceOptions,
)
from guided_diffusion.runtime.options import ActionConfig, FloatTuple, NameList, OptionGroup, Problem, option
from guided_diffusion.training.options import DeviceOptions

_AS_SAMPLES = "null: as the samples were made"
_RESIZE, _SCALE, _MASK_RESIZE, _RANGE = (
    GeometryOptions.model_fields[key].description for key in ("resize", "scale", "mask_resize", "image_range")
)


class ViewOptions(OptionGroup):
    """The size of the images that metrics and segmentation models see."""

    title: ClassVar = "what is compared"
    image_size: ImageSize | None = option(
        None,
        "side, or [height, width], of the images compared and segmented; multiples of 32 where models are trained; "
        + f"{_AS_SAMPLES}, needed for those of place",
    )
    image_channels: Channels | None = option(None, f"1 for gray images, 3 for RGB; {_AS_SAMPLES}")
    image_range: ImageRangeOption | None = option(None, f"{_RANGE}; {_AS_SAMPLES}")
    resize: Literal["crop", "squash", "pad", "window"] | None = option(None, f"{_RESIZE}; {_AS_SAMPLES}")
    scale: float | None = option(None, f"{_SCALE}; {_AS_SAMPLES}", gt=0, le=1)
    mask_resize: Literal["nearest", "area"] | None = option(None, f"{_MASK_RESIZE}; {_AS_SAMPLES}")


class StudyOptions(OptionGroup):
    """The segmentation models that tell whether the samples help."""

    title: ClassVar = "study"
    study: bool = option(True, "train segmentation models on real, mixed and synthetic data and compare them")
    architectures: NameList = option(
        ("unetplusplus", "fpn", "deeplabv3plus"), "models of segmentation-models-pytorch, such as unetplusplus, fpn"
    )
    encoder: str = option("resnet34", "encoder of the models, by its name in segmentation-models-pytorch")
    encoder_weights: str = option(
        "imagenet",
        'where the encoder starts: a name to download, a local file, or "none" for random weights',
        words=True,
    )
    ratios: FloatTuple = option((0.5, 1.0, 2.0), "synthetic images for each real one; each ratio is a setting")
    other_dirs: NameList = option(
        (), "folders of other samples, such as those of other masks: each is a setting, at the largest ratio"
    )
    synthetic_only: bool = option(True, "a setting with synthetic images alone")
    baselines: bool = option(
        True, "settings without samples: standard augmentation, copy-paste of defects", former="rivals"
    )
    augment_all: bool = option(
        False, "standard augmentation in every setting: do the samples help on top of it, not in its place?"
    )
    seeds: int = option(3, "trainings of each setting, each with its own seed", ge=1, le=100)
    train_steps: int = option(2000, "optimization steps of each model, the same for all settings", ge=1, le=10_000_000)
    batch_size: int = option(16, "images a step takes", ge=2, le=65536)
    lr: float = option(5e-4, "largest learning rate of AdamW", gt=0)
    validation_share: float = option(0.2, "share of the training images that chooses the best state", gt=0, lt=1)
    vertical_flip: bool = option(
        False, "standard augmentation may flip images upside down, too; copy-paste always turns what it pastes"
    )
    seed: int = option(0, "seed of everything random", ge=0, lt=2**63)

    def check(self) -> Iterator[Problem]:
        if not self.architectures:
            yield ("architectures", "architectures is empty: give at least one, such as unetplusplus")
        for name in {name for name in self.architectures if self.architectures.count(name) > 1}:
            yield ("architectures", f"architectures has {name!r} twice: keep one")
        for ratio in self.ratios or ():
            if not 0 < ratio <= 1000:
                yield ("ratios", f"ratios has {ratio:g}: every ratio must be above 0, such as 0.5")
        if len(set(self.ratios or ())) < len(self.ratios or ()):
            yield ("ratios", f"ratios is {list(self.ratios)}, with one ratio twice: keep one")
        if self.other_dirs and not (self.study and self.ratios):
            missing = "ratios is empty" if self.study else "study is false"
            yield ("other_dirs", f"other_dirs is given, but {missing}, and nothing would be compared: leave one out")


_OF_COMPARISON = ("ratios", "synthetic_only", "baselines", "seeds")
"""Keys that nothing uses where `study` is false."""
_OF_TRAINING = (
    "architectures", "encoder", "encoder_weights", "augment_all", "train_steps", "lr", "validation_share",
    "vertical_flip",
)  # fmt: skip
"""Keys that nothing uses where no segmenter of the agreement is trained, either."""


class QualityOptions(OptionGroup):
    """What is measured on the samples themselves."""

    title: ClassVar = "quality of the samples"
    compare_with: Literal["training", "test"] = option(
        "training", "real images that FID, KID, precision and recall compare the samples with; published: test"
    )
    agreement: bool = option(True, "score how well a segmenter trained on real images finds the masks in the samples")
    filter_below: float | None = option(
        None, "copy the samples, but leave out those whose agreement is below this; null: no copy", ge=0, le=1
    )
    filtered_dir: str = option("", 'folder of that copy; "": filtered, in output_dir', written=True)
    inception_weights: str = option(
        "auto",
        'for FID, KID, precision and recall: "auto" (download), a local file, or "none" to leave them out',
        words=True,
    )
    lpips_net: Literal["alex", "vgg", "squeeze"] = option("alex", "network of LPIPS; published diversities: alex")
    lpips_weights: str = option("auto", 'its ImageNet weights: "auto" (download), a local file, or "none"', words=True)
    diversity_dir: str = option(
        "", 'samples with several a mask, for LPIPS diversity (published: 10); "": synthetic_dir', path=True
    )
    near_duplicates: bool = option(True, "look for samples that nearly repeat a training image", former="memorisation")
    report_images: int = option(12, "samples shown in the report's pictures", ge=1, le=200)

    def check(self) -> Iterator[Problem]:
        if self.filter_below is not None and not self.agreement:
            yield ("filter_below", "filter_below needs agreement, which is false: set agreement to true")
        if self.filtered_dir and self.filter_below is None:
            yield ("filtered_dir", "filtered_dir is given, but filter_below is null: set filter_below, such as 0.3")


class SegmenterOptions(OptionGroup):
    """A segmenter trained elsewhere, used for the agreement in place of one trained here."""

    title: ClassVar = "external segmenter"
    segmenter: str = option(
        "",
        'local file of a pretrained segmenter for the agreement; "": one is trained here on the real images',
        path=True,
    )
    segmenter_model: str = option(
        "",
        'model whose weights the file holds, smp/<architecture>/<encoder> or torchvision/<name>; "": the file is a '
        "program (TorchScript, or .pt2 of torch.export), which is run: only from someone you trust",
    )
    segmenter_labels: str = option(
        "",
        'JSON file, output -> class (name or index) or null; "": the outputs are the dataset\'s classes in order',
        path=True,
    )
    segmenter_size: ImageSize | None = option(
        None, "side, or [height, width], to which images are resized for it; null: as compared"
    )
    segmenter_input: Literal["imagenet", "unit", "symmetric", "bytes"] = option(
        "imagenet", "its images: imagenet (less mean, over deviation), unit 0..1, symmetric -1..1, bytes 0..255"
    )

    def check(self) -> Iterator[Problem]:
        needless = ("segmenter_model", "segmenter_labels", "segmenter_size", "segmenter_input")
        for key in () if self.segmenter else self.changed(*needless):
            yield (key, f"{key} is given, but segmenter is empty: give its file, or leave {key} out")
        model = self.segmenter_model
        if model and not re.fullmatch("smp/[^/]+/[^/]+|torchvision/[^/]+", model):
            yield (
                "segmenter_model",
                f"segmenter_model is {model!r}: expected smp/<architecture>/<encoder>, such as smp/fpn/resnet34, or "
                "torchvision/<name>, such as torchvision/fcn_resnet50",
            )


class DeepLabOptions(OptionGroup):
    """A segmentation model of the samples alone, as published with DatasetDDPM."""

    title: ClassVar = "as published by DDPM-seg"
    deeplab: bool = option(
        False, "train DeepLabV3-ResNet101 on the samples alone and score it on the test images, as DatasetDDPM did"
    )
    deeplab_weights: str = option(
        "auto",
        'ImageNet weights of its backbone: "auto" (download), a local file, or "none" for random ones',
        words=True,
    )
    deeplab_epochs: int = option(20, "its epochs; that with the best mIoU on the training images is scored", ge=1)

    def check(self) -> Iterator[Problem]:
        for key in () if self.deeplab else self.changed("deeplab_weights", "deeplab_epochs"):
            yield (key, f"{key} is given, but deeplab is false: set deeplab to true, or leave {key} out")


class ObjectOptions(OptionGroup):
    """What is measured on objects in their boxes, of samples that were made of layouts."""

    title: ClassVar = "objects in boxes"
    objects: bool | None = option(
        None,
        "measure objects in their boxes, those of masks are connected parts; null: where the samples are of layouts, "
        "or the dataset has boxes",
    )
    max_objects: int | None = option(
        None, f"{BoxOptions.model_fields['max_objects'].description}; {_AS_SAMPLES}", ge=1, le=1024
    )
    min_object_size: float | None = option(
        None, f"{BoxOptions.model_fields['min_object_size'].description}; {_AS_SAMPLES}", ge=0, lt=1
    )
    null_dir: str = option(
        "",
        "the same samples without their objects, of sample with s 0 or only_background: what do boxes change?",
        path=True,
    )
    crop_net: str = option("resnet18", "classifier of crops of boxes, by its name in timm; published: resnet101")
    crop_steps: int = option(300, "optimization steps of each classifier of crops; 0: none", ge=0, le=10_000_000)
    crop_seeds: int = option(3, "classifiers of each kind, each with its own seed", ge=1, le=100)
    detector_steps: int = option(
        1000, "optimization steps of the detector of objects, needs faster-coco-eval; 0: none", ge=0, le=10_000_000
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """The keys that were set, and ask for a measure of objects."""
        set_ones = self.changed("null_dir", "crop_net", "crop_steps", "crop_seeds", "detector_steps")
        return tuple(key for key in set_ones if getattr(self, key) != 0)

    def check(self) -> Iterator[Problem]:
        for key in self.asked if self.objects is False else ():
            yield (key, f"{key} is given, but objects is false: leave it out, or set objects to true")


class ComparedSourceOptions(SourceOptions):
    """The real dataset; its open keys are taken from the samples."""

    dataset_mode: str = option("", f"{SourceOptions.model_fields['dataset_mode'].description}; empty: as the samples")


class EvaluateConfig(ActionConfig):
    """Keys of `evaluate`."""

    required: ClassVar = ("data_dir", "synthetic_dir", "output_dir")
    summary: ClassVar = "measure the samples, and whether they make a segmentation model better; writes a report"
    common: ClassVar = (
        "data_dir", "synthetic_dir", "output_dir", "architectures", "encoder",
        "encoder_weights", "ratios", "seeds", "train_steps", "filter_below",
    )  # fmt: skip

    source: ComparedSourceOptions
    view: ViewOptions
    study: StudyOptions
    quality: QualityOptions
    segmenter: SegmenterOptions
    deeplab: DeepLabOptions
    objects: ObjectOptions
    compute: DeviceOptions
    max_training: int | None = option(
        None, "training images that are used, the first ones by name; null: all", ge=4, le=1_000_000
    )
    max_test: int | None = option(
        None, "test images that are used, the first ones by name; null: all", ge=2, le=1_000_000
    )
    synthetic_dir: str = option(
        "", "samples to judge: results_path of sample, or any folder with images/ and masks/", path=True
    )
    output_dir: str = option("", "folder for report.html, report.json and the results of the study", written=True)

    @property
    def trains_models(self) -> bool:
        """Whether segmentation models are trained: for the study, or to look for the masks."""
        return self.study.study or (self.quality.agreement and not self.segmenter.segmenter)

    @property
    def idle_study(self) -> str:
        """What to say of keys of the study that are given where `study` is false, as of a shared config; else ""."""
        unused = () if self.study.study else (*_OF_COMPARISON, *(() if self.trains_models else _OF_TRAINING))
        return self.left_aside(f"no models are {'compared' if self.trains_models else 'trained'}", *unused)

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.segmenter.segmenter and not self.quality.agreement:
            yield ("segmenter", "segmenter is given, but agreement is false: set agreement to true, or leave it out")
