"""The classes of a dataset as far as they can be told without opening a mask, for what a dry run refuses."""

from __future__ import annotations

from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.data.masks.inference import stated_names
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.scan.problems import refuse_fatal


def known_classes(source: SourceOptions) -> tuple[str, ...]:
    """Return the names of the classes of masks, by dataset_mode, classes.json and num_classes.

    Raises DataError where these contradict each other or tell nothing.
    """
    classes, problems = read_classes(source.data_dir)
    refuse_fatal(problems)
    names, problems = stated_names(get_mode(source.dataset_mode), classes, source.num_classes)
    refuse_fatal(problems)
    assert names is not None
    return names
