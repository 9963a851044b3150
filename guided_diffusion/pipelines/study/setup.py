"""What a study is made of, after every check of what a user can get wrong: configurations, pairs, good images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guided_diffusion.config.load import load_config, read_keys
from guided_diffusion.config.study import (
    ARMS,
    COPIED,
    GENERATED,
    INPAINTED,
    MIXED,
    REPAINT,
    SDM,
    StudyConfig,
    amount_name,
)
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.datasets import foreground_classes
from guided_diffusion.data.groups import Groups, groups_of, shared_group_problems
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.placing.bank import ClassTally, class_ids, refuse_absent
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.data.scan.duplicates import Twin
from guided_diffusion.data.scan.good_images import list_upright
from guided_diffusion.data.scan.problems import refuse_fatal
from guided_diffusion.pipelines.dataset import scan_split, shared_with_good, shared_with_training
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.placing.plan import taken_for_objects
from guided_diffusion.pipelines.pseudo_labels import pseudo_label_lines
from guided_diffusion.pipelines.study.amounts import Presence, nested_order, read_presence, subset_of
from guided_diffusion.pipelines.study.images import StudyView
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import digest

_SET = ("data_dir", "good_dir", "output_dir", "model_path", "results_path", "split", "num_samples", "seed", "device")
"""Keys that the study sets in the configurations of the generators."""


@dataclass(frozen=True)
class StudySetup:
    """Everything that is compared, and on what; nothing is trained or written yet.

    training: None where no arm has a generator. train_keys, place_keys: what the configs of the generators give,
    without the keys that the study sets. geometry: with which defects are placed. pairs: for training, all of them;
    subsets: those of each amount. defects: ids of the defect classes. shown: the classes that these have.
    """

    config: StudyConfig
    training: TrainConfig | None
    train_keys: Mapping[str, Any]
    place_keys: Mapping[str, Any]
    source: SourceOptions
    geometry: GeometryOptions
    view: StudyView
    pairs: tuple[Pair, ...]
    subsets: Mapping[int | None, tuple[Pair, ...]]
    test: tuple[Pair, ...]
    good: tuple[GoodImage, ...]
    good_test: tuple[GoodImage, ...]
    warnings: tuple[str, ...]
    defects: tuple[int, ...]
    shown: Mapping[int | None, Sequence[str]]

    @property
    def chosen_defects(self) -> tuple[int, ...] | None:
        """The defect classes; None where these are all classes but the background."""
        return None if self.defects == tuple(range(1, len(self.class_names))) else self.defects

    @property
    def defect_names(self) -> tuple[str, ...]:
        return tuple(self.class_names[class_id] for class_id in self.defects)

    @property
    def mode(self) -> DatasetMode:
        return get_mode(self.source.dataset_mode)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.view.encoding.names

    @property
    def good_dirs(self) -> tuple[str, str]:
        """The folders of good images for training and for the test."""
        return good_folders(self.config)

    @property
    def test_groups(self) -> Groups:
        """The groups of the test images, those with defects first."""
        return groups_of(self.source.group_pattern, [image.stem for image in (*self.test, *self.good_test)])

    @property
    def exchanged(self) -> tuple[tuple[int, int], ...]:
        """Pairs of classes that change places in a mirrored image."""
        return flip_pairs(self.class_names, self.source.flip_pairs)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in their usual order, whatever that of the option."""
        return tuple(arm for arm in ARMS if arm in self.config.design.arms)


def good_folders(config: StudyConfig) -> tuple[str, str]:
    """Return the folders of good images for training and for the test; ConfigError where there are not two."""
    if config.good_test_dir:
        return config.good_dir, config.good_test_dir
    split = tuple(str(Path(config.good_dir) / name) for name in ("train", "test"))
    if not all(Path(folder).is_dir() for folder in split):
        line = f"good_dir is {config.good_dir}, which has no train/ and test/: give good_test_dir for the test, too"
        raise ConfigError.of_keys(("good_dir", line))
    return split[0], split[1]


def mode_of_study(source: SourceOptions) -> DatasetMode:
    """Return the mode that dataset_mode names; ConfigError for one whose background is another class than the first."""
    mode = get_mode(source.dataset_mode)
    if mode.background != 0:
        line = f"dataset_mode is {mode.name}, whose background is class {mode.background}: a study needs it as class 0"
        raise ConfigError.of_keys(("dataset_mode", line))
    return mode


def prepare(config: StudyConfig) -> StudySetup:
    """Read and check the configs and the data of a study. Raises UserError with a line for each mistake."""
    train_keys, training, place_keys = read_configs(config)
    source, geometry = _data_options(config, training)
    mode = mode_of_study(source)
    folders = good_folders(config)
    report = scan_split(source, geometry, "train")
    encoding = report.raise_if_fatal()
    good, good_test = (tuple(list_upright(folder, source.exif, report.pairs)) for folder in folders)
    tested = scan_split(source, geometry, "test", encoding=encoding)
    tested.raise_if_fatal()
    shared = shared_with_training(tested, report)
    if shared:
        found = f"{len(shared)} images of the test split are in the training split, too (such as {shared[0].pair.stem})"
        raise DataError.of(source.data_dir, found, "keep each in one split")
    _refuse_shared_good(good, good_test)
    _refuse_known(shared_with_good(tested, good), "is a test image and also {}, which is trained on")
    _refuse_known(shared_with_good(report, good_test), "is trained on and also {}, a good image for the test")
    every = (*report.pairs, *good), (*tested.pairs, *good_test)
    refuse_shared_groups(source, *every)
    tally = ClassTally(encoding.num_classes)
    presence = read_presence(report.pairs, encoding, mode.background, tally)
    defects, objects = _defect_classes(_named_defects(config, place_keys), encoding.names, mode, tally)
    classes = foreground_classes(encoding.num_classes, mode.background)
    shows = dict(zip((pair.stem for pair in report.pairs), presence[:, np.isin(classes, defects)].any(1), strict=True))
    twins = [twin for twin in shared_with_good(report, good) if shows[twin.pair.stem]]
    _refuse_known(twins, "has a mask with defects, and is also {}, a good image")
    order = nested_order(presence, config.seed)
    subsets = {amount: subset_of(report.pairs, order, amount) for amount in config.design.repeats}
    scale = geometry.scale if config.scale is None else config.scale
    view = StudyView(encoding, geometry.image_channels, scale, geometry.image_range, mode.background)
    shown = _shown(subsets, report.pairs, presence, encoding.names)
    warnings = (
        *taken_for_objects(objects),
        *_absent(shown, _shown({None: report.pairs}, report.pairs, presence, encoding.names)[None]),
        *pseudo_label_lines(source.data_dir),
    )
    return StudySetup(
        config,
        training,
        train_keys,
        place_keys,
        source,
        geometry,
        view,
        report.pairs,
        subsets,
        tested.pairs,
        good,
        good_test,
        warnings,
        defects,
        shown,
    )


def refuse_shared_groups(
    source: SourceOptions, train: Sequence[Pair | GoodImage], test: Sequence[Pair | GoodImage]
) -> None:
    """Raise UserError where test images show objects that are trained on, or `group_pattern` matches none of them."""
    # By these groups the report draws its intervals, after all trainings.
    groups_of(source.group_pattern, [image.stem for image in test])
    refuse_fatal(shared_group_problems(source.group_pattern, test, train, fatal=True))


def _named_defects(config: StudyConfig, place_keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the defect classes that the study or `place_config` names; none where neither does."""
    own = PlacingOptions.model_validate({"defect_classes": place_keys.get("defect_classes")}).defect_classes
    return config.defect_classes or own or ()


def _defect_classes(
    named: Sequence[str], names: Sequence[str], mode: DatasetMode, tally: ClassTally
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids of the defect classes, and the names of those that are taken for objects on which they lie, as
    `place` has them. Raises ConfigError for names that are no defect class, DataError where there is none.
    """
    key, ground = "defect_classes", mode.background
    asked = class_ids(key, named, names, ground=ground)
    refuse_absent(key, named, lambda name: bool(tally.presence[names.index(name)]))
    defects, objects = tally.defects({ground, *mode.unlabeled_classes(names)}, asked)
    if not defects:
        raise DataError.of("training masks", "have no class of defects", "name the classes in defect_classes")
    if not any(tally.presence[class_id] for class_id in defects):
        raise DataError.of("training masks", "show no defect, so there is nothing to learn", "add masks with defects")
    return defects, tuple(names[class_id] for class_id in objects)


def refuse_unknown_classes(config: StudyConfig, source: SourceOptions, place_keys: Mapping[str, Any]) -> None:
    """Raise UserError for classes that the dataset does not have, as far as that can be told without its masks."""
    names = known_classes(source)
    flip_pairs(names, source.flip_pairs)
    ground = get_mode(source.dataset_mode).background
    class_ids("defect_classes", _named_defects(config, place_keys), names, ground=ground)


def _shown(
    subsets: Mapping[int | None, tuple[Pair, ...]], pairs: Sequence[Pair], presence: Presence, names: Sequence[str]
) -> dict[int | None, list[str]]:
    """Return the classes other than the background that the images of each amount show."""
    index = {pair.stem: number for number, pair in enumerate(pairs)}
    rows = {amount: presence[[index[pair.stem] for pair in subset]].any(axis=0) for amount, subset in subsets.items()}
    return {amount: [names[1 + number] for number in np.flatnonzero(row)] for amount, row in rows.items()}


def _absent(shown: Mapping[int | None, list[str]], everywhere: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each amount that lacks a class which all images together show."""
    lines = []
    for amount, names in shown.items():
        lacking = [name for name in everywhere if name not in names]
        if lacking:
            lines.append(f"the {amount_name(amount)} annotated images do not show {', '.join(lacking)}")
    return tuple(lines)


def _refuse_known(twins: Sequence[Twin], found: str) -> None:
    """Raise DataError where an image of a pair is a good image, too; found: says both, the latter's path in braces."""
    if twins:
        line = found.format(twins[0].of.image) + (f" ({len(twins)} such images)" if len(twins) > 1 else "")
        raise DataError.of(twins[0].pair.image, line, "leave it out of one of the two")


def _refuse_shared_good(good: tuple[GoodImage, ...], test: tuple[GoodImage, ...]) -> None:
    digests = {digest(image.image): image for image in good}
    for image in test:
        if (found := digests.get(digest(image.image))) is not None:
            raise DataError.of(image.image, f"is also {found.image}, which is trained on", "keep each in one folder")


# ----------------------------------------------------------------------------------- the configs of generators


def read_configs(config: StudyConfig) -> tuple[dict[str, Any], TrainConfig | None, dict[str, Any]]:
    """Return the keys of `train_config`, what they mean, None without one, and the keys of `place_config`.

    Raises ConfigError for keys that are wrong, or that a study cannot use.
    """
    train_keys, training = _read_train_config(config) if config.train_config else ({}, None)
    return train_keys, training, _read_place_config(config)


def _read_train_config(config: StudyConfig) -> tuple[dict[str, Any], TrainConfig]:
    """Return the keys of `train_config` as the study uses them, and the resolved configuration."""
    key, path = "train_config", config.train_config
    keys = _keys_of("train", path)
    wanted = {name: config.source.model_dump(mode="json")[name] for name in config.source.model_fields_set}
    for name in ("image_channels",):
        if config.get(name) is not None:
            wanted[name] = config.get(name)
    for name, value in wanted.items():
        if name != "data_dir" and name in keys and keys[name] != value:
            line = f"{name} is {value}, but {keys[name]} in {path}, which is train_config: write both alike"
            raise ConfigError.of_keys((name, line))
    keys |= wanted
    training = _checked("train", key, path, {**keys, "output_dir": config.output_dir})
    needing = [arm for arm in config.design.arms if arm in GENERATED]
    if needing and (
        training.geometry.resize != "window" or (set(needing) & set(INPAINTED) and not training.model.inpaint)
    ):
        found = f"resize {training.geometry.resize} and inpaint {str(training.model.inpaint).lower()}"
        line = f"train_config is {path}, which has {found}: arm {needing[0]} needs resize window and inpaint true"
        raise ConfigError.of_keys((key, line))
    if SDM in needing and training.model.condition == "none":
        line = f'train_config is {path}, which has condition "none": arm sdm draws images of masks; set condition to '
        raise ConfigError.of_keys((key, f"{line}mask, or leave sdm out of arms"))
    if SDM in needing and config.scale not in (None, training.geometry.scale):
        line = (
            f"scale is {config.scale:g}, but {training.geometry.scale:g} in {path}: arm sdm has windows of that scale"
        )
        raise ConfigError.of_keys(("scale", f"{line}: leave scale out, or sdm out of arms"))
    return keys, training


def _read_place_config(config: StudyConfig) -> dict[str, Any]:
    if not config.place_config:
        return {}
    key, path = "place_config", config.place_config
    keys = _keys_of("place", path)
    folders = {"model_path": "a", "results_path": "b", "good_dir": "c", "data_dir": "d"}
    placed = _checked("place", key, path, {**keys, **folders})
    own = placed.placing.defect_classes
    if config.defect_classes and own and {*config.defect_classes} != {*own}:
        found = f"defect_classes is {', '.join(config.defect_classes)}, but {', '.join(own)} in {path}, which is"
        raise ConfigError.of_keys(("defect_classes", f"{found} place_config: write both alike"))
    if placed.erase:
        raise ConfigError.of_keys((key, f"place_config is {path}, which has erase true: a study places defects"))
    pasting = [arm for arm in config.design.arms if arm in (*COPIED, MIXED)]
    if pasting and placed.placing.mask_source == "dir":
        line = f"place_config is {path}, which has mask_source dir, whose masks are not those of training defects: "
        raise ConfigError.of_keys((key, f"{line}leave {' and '.join(pasting)}, which paste these, out of arms"))
    if REPAINT in config.design.arms:
        _checked("place", key, path, {**keys, **folders, "paste_noise": config.design.repaint_noise})
    return keys


def _keys_of(action: str, path: str) -> dict[str, Any]:
    """Return what a config file gives for `action`, without the keys that the study sets."""
    values, _ = read_keys(action, path)
    return {name: value for name, value in values.items() if name not in _SET}


def left_aside(config: StudyConfig) -> list[str]:
    """Return a line for each config of the generators that has keys of other actions, which its own leaves aside."""
    paths = (("train", "train_config", config.train_config), ("place", "place_config", config.place_config))
    found = [(key, path, read_keys(action, path)[1]) for action, key, path in paths if path]
    return [f"{key} is {path}: {line}" for key, path, line in found if line]


def _checked(action: str, key: str, path: str, values: Mapping[str, Any]) -> Any:
    try:
        return load_config(action, values)
    except ConfigError as error:
        raise ConfigError.of_keys(*((key, f"{key} is {path}: {line}") for line in error.messages)) from error


def _data_options(config: StudyConfig, training: TrainConfig | None) -> tuple[SourceOptions, GeometryOptions]:
    """Return how the real data are read: as the generators do, or, without any, as the study says."""
    if training is not None:
        return training.source, training.geometry
    geometry = GeometryOptions(
        resize="window", scale=config.scale or 1.0, image_channels=config.image_channels or 3, image_size=8
    )
    return config.source, geometry
