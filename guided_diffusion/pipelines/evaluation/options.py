"""The options of `evaluate`, completed from the record of the samples, and what they need."""

from __future__ import annotations

import json
import re
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from guided_diffusion.config.evaluate import EvaluateConfig, ObjectOptions, ViewOptions
from guided_diffusion.config.load import load_config
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import BoxOptions, GeometryOptions, ImageSize, SourceOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.option_help import expected
from guided_diffusion.runtime.options import Problem
from guided_diffusion.samples.reader import SampleFolder, find_samples

FROM_SAMPLES = (
    *ViewOptions.model_fields,
    *(key for key in SourceOptions.model_fields if key != "data_dir"),
    *BoxOptions.model_fields.keys() & ObjectOptions.model_fields.keys(),
)
"""Keys that, left empty, take the value that the samples were made with."""
OF_WHOLE_IMAGES = ("image_size", "resize", "scale", "mask_resize")
"""Keys that tell nothing of the samples of `place`: it works in windows, and leaves whole images of any size."""
WITHOUT = ("", "none")
"""What weights are called that are not to be used."""
SIDE = 32  # image sides of the segmentation models are multiples of it


def needs_training(config: EvaluateConfig) -> bool:
    """Tell whether any of the measurements needs the training images."""
    quality, objects = config.quality, config.objects
    return (
        config.trains_models
        or config.deeplab.deeplab
        or quality.near_duplicates
        or quality.compare_with == "training"
        or bool(objects.objects and (objects.crop_steps or objects.detector_steps))
    )


def resolve_options(config: EvaluateConfig, samples: SampleFolder) -> EvaluateConfig:
    """Return the configuration with empty keys filled from the run that made the samples.

    Raises ConfigError for keys that neither has, and for wrong values in the samples' record.
    """
    values = config.to_json()
    for key in FROM_SAMPLES:
        if values[key] in (None, "") and not (samples.has_native_depth and key in OF_WHOLE_IMAGES):
            values[key] = samples.config.get(key)
    if samples.has_native_depth:
        _complete_for_whole_images(values, samples)
    _leave_out_what_needs_masks(values, config)
    trains_models = values["study"] or (values["agreement"] and not values["segmenter"])
    if config.view.image_size is None and values["image_size"] is not None:
        size = size_of_samples(values["image_size"])
        if trains_models:
            size = tuple(SIDE * ceil(side / SIDE) for side in size)
        values["image_size"] = size[0] if size[0] == size[1] else list(size)
    missing = [key for key in ("dataset_mode", "image_size") if values[key] in (None, "")]
    if missing:
        raise ConfigError(
            [f"{key} is missing, and {samples.folder} has no config.json of sample: set it" for key in missing]
        )
    if trains_models:
        _refuse_odd_sides(config)
    for key in ("image_channels", "image_range"):  # samples of older versions have no image_range
        if values[key] is None:
            values[key] = GeometryOptions.model_fields[key].default
    if not values["encoder_weights"]:
        values["encoder_weights"] = "none"
    # The samples' record is a file that anyone may have edited, so its values are checked too.
    resolved: EvaluateConfig = load_config("evaluate", values)
    if resolved.view.resize is None:
        resolved = resolved.replaced(resize=get_mode(resolved.source.dataset_mode).resize)
    if resolved.objects.objects is None:
        has_boxes = get_mode(resolved.source.dataset_mode).boxes is not None
        resolved = resolved.replaced(objects=samples.predicted > 0 or has_boxes)
    _refuse_idle(config, resolved, samples)
    made_at, scale = samples.config.get("scale"), resolved.view.scale
    if resolved.view.resize == "window" and samples.holds_windows and made_at != scale:
        found = f"{scale} given, but the windows of {samples.folder} are at scale {made_at}"
        raise ConfigError.of("scale", found, "leave it out")
    return resolved


def _refuse_idle(config: EvaluateConfig, resolved: EvaluateConfig, samples: SampleFolder) -> None:
    """Raise ConfigError for keys that were given and that nothing looks at."""
    made = samples.config
    # The config.json of an evaluation has the values of the samples, and may be given again.
    given = {key for key in ("max_objects", "min_object_size", "scale") if config.get(key) not in (None, made.get(key))}
    lines = []
    if not resolved.objects.objects:
        why = "objects is false" if config.objects.objects is False else "the samples are of no layouts"
        idle = [*resolved.objects.asked, *(key for key in ("max_objects", "min_object_size") if key in given)]
        lines += [(key, f"{key}: given, but {why}; leave it out, or set objects to true") for key in idle]
    if "scale" in given and resolved.view.scale != 1 and resolved.view.resize != "window":
        line = f"scale is {resolved.view.scale:g}, but resize is {resolved.view.resize}, which gives all images the "
        lines.append(("scale", f"{line}size image_size: set resize to window, or leave scale out"))
    named = {key for key, _ in lines}
    lines += [line for line in _idle_measures(resolved, samples) if line[0] not in named]
    if lines:
        raise ConfigError.of_keys(*lines)


def _idle_measures(resolved: EvaluateConfig, samples: SampleFolder) -> list[Problem]:
    """Return the keys of measures that are switched off."""
    quality, objects, lines = resolved.quality, resolved.objects, {}
    if quality.lpips_weights in WITHOUT:
        # Of layouts, the features of Inception stand in for LPIPS.
        by_features = objects.objects and samples.predicted > 0 and quality.inception_weights not in WITHOUT
        for key in ("lpips_net", *(() if by_features else ("diversity_dir",))):
            lines[key] = f'{key} is given, but lpips_weights is "none": leave {key} out, or set lpips_weights to auto'
    for key in ("crop_net", "crop_seeds") if not objects.crop_steps else ():
        lines[key] = f"{key} is given, but crop_steps is 0, so no classifier is trained: leave {key} out"
    return [(key, lines[key]) for key in resolved.changed(*lines)]


def without_masks(dataset_mode: str) -> bool:
    """Tell whether the real dataset has boxes in place of masks."""
    mode = get_mode(dataset_mode)
    return mode.masks is None and mode.boxes is not None


def _leave_out_what_needs_masks(values: dict[str, Any], config: EvaluateConfig) -> None:
    """Turn off what a dataset of boxes cannot be asked; ConfigError for what was asked of it expressly."""
    mode = values["dataset_mode"]
    if not isinstance(mode, str) or not mode or not without_masks(mode):  # a record may have anything here
        return
    asked = {
        "segmenter": config.segmenter.segmenter,
        "filter_below": config.quality.filter_below is not None,
        "deeplab": config.deeplab.deeplab,
        "other_dirs": config.study.other_dirs,
    }
    lines = [
        (key, f"{key} is given, but it needs masks, and {config.source.data_dir} has boxes: leave it out")
        for key, given in asked.items()
        if given
    ]
    if lines:
        raise ConfigError.of_keys(*lines)
    values["study"] = values["agreement"] = False


def _refuse_odd_sides(config: EvaluateConfig) -> None:
    """Raise ConfigError for an image_size that was given and does not suit the segmentation models."""
    size = config.view.image_size
    sides = [size] if isinstance(size, int) else list(size or ())
    if any(side % SIDE for side in sides):
        fitting = [max(SIDE, round(side / SIDE) * SIDE) for side in sides]
        given, example = (sides[0], fitting[0]) if isinstance(size, int) else (sides, fitting)
        line = f"image_size is {given}: the segmentation models need multiples of {SIDE}, such as {example}"
        raise ConfigError.of_keys(("image_size", line))


def find_others(config: EvaluateConfig, samples: SampleFolder) -> dict[str, SampleFolder]:
    """Return the folders of `other_dirs` by the name of each; ConfigError where one cannot stand beside `samples`.

    All are compared at one size: windows with windows of the same size and scale, whole images with whole images.
    """
    found: dict[str, SampleFolder] = {}
    for given in config.study.other_dirs:
        folder = find_samples(given)
        name = re.sub(r"[^\w.-]+", "_", Path(given).resolve().name)
        if name in found:
            line = f"other_dirs has two folders called {name}, by which results are known: rename one"
            raise ConfigError.of_keys(("other_dirs", line))
        if folder.folder == samples.folder:
            line = f"other_dirs has {given}, which is synthetic_dir: leave it out"
            raise ConfigError.of_keys(("other_dirs", line))
        forms = [_form(each) for each in (samples, folder)]
        if forms[0] != forms[1]:
            found_both = f"other_dirs has {given}, which holds {forms[1]}, but synthetic_dir holds {forms[0]}"
            line = f"{found_both}: give samples alike"
            raise ConfigError.of_keys(("other_dirs", line))
        found[name] = folder
    return found


def made_otherwise(samples: SampleFolder, view: ViewOptions, remedy: str) -> list[str]:
    """Return a warning if samples that are read as they are were made in another geometry or range than real images.

    Those of `place` are read as real images are. remedy: what to do, with the keys as `{keys}`.
    """
    if samples.has_native_depth:
        return []
    read = json.loads(json.dumps({"resize": view.resize, "image_range": view.image_range}))
    made = {key: value for key in read if (value := samples.config.get(key)) not in (None, "")}
    same = ("auto", "full")  # "full" is "auto" without a warning
    differ = [key for key, value in made.items() if value != read[key] and not (value in same and read[key] in same)]
    if not differ:
        return []
    of_samples, of_real = (" and ".join(f"{key} {json.dumps(each[key])}" for key in differ) for each in (made, read))
    return [
        f"{samples.folder}: made with {of_samples}, but the real images are read with {of_real}: they may differ by "
        f"that alone; {remedy.format(keys=' and '.join(differ))}"
    ]


def _form(samples: SampleFolder) -> str:
    if not samples.holds_windows:
        return "whole images"
    return f"windows of image_size {samples.config.get('image_size')} at scale {samples.config.get('scale')}"


def _complete_for_whole_images(values: dict[str, Any], samples: SampleFolder) -> None:
    """Fill in how the samples of `place` are compared; ConfigError without an image_size, which nothing tells."""
    if values["image_size"] is None:
        line = (
            f"image_size is missing: {samples.folder} has samples of place, which have the sizes of their good images; "
            "set the size to compare at, such as 256"
        )
        raise ConfigError.of_keys(("image_size", line))
    # Nothing is cut off or stretched, and thin defects stay.
    for key, value in (("resize", "pad"), ("mask_resize", "area")):
        values[key] = value if values[key] is None else values[key]


def size_of_samples(size: Any) -> tuple[int, int]:
    """Return height and width in a record of sampling; ConfigError where somebody put something else there."""
    try:
        return height_width(TypeAdapter(ImageSize).validate_python(size, strict=True))
    except ValidationError:
        field = GeometryOptions.model_fields["image_size"]
        raise ConfigError(
            f"image_size is {json.dumps(size)}: expected {expected(field)}, such as {field.default}"
        ) from None
