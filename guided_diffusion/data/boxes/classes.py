"""The classes of boxes: names of the annotations, of classes.json, or of the training that a split belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guided_diffusion.data.boxes.json_records import entry_problem, file_problem
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.near_names import suggestion

BACKGROUND = "background"
"""Class 0, that of a picture as a whole."""


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of annotations that have these, the background first."""
    own = next((name for name in names if name.casefold() == BACKGROUND), BACKGROUND)
    return (own, *(name for name in names if name != own))


def with_classes(
    file: AnnotationFile, declared: Sequence[str] | None, num_classes: int | None
) -> tuple[tuple[str, ...], AnnotationFile]:
    """Return the names of all classes, and the annotations with their numbers; class 0 is the background.

    declared: names of classes.json or of the training; None: those of the annotations. num_classes: of the options.
    """
    names = class_names(file.names) if declared is None else tuple(declared)
    problems = list(file.problems)
    if num_classes is not None and num_classes != len(names):
        found = f"{num_classes}, but there are {len(names)} classes: {', '.join(names)}"
        problems.append(Problem("num_classes", found, "leave it out, or correct it", ProblemKind.NUM_CLASSES))
    numbers = [names.index(name) if name in names else None for name in file.names]
    images = [_renumbered(file, image, numbers, names, problems) for image in file.images]
    used = {found.class_id for image in images for found in image.objects}
    if declared is not None and 0 in used and names[0].casefold() != BACKGROUND:
        found = f"has boxes of class 0, {names[0]!r}, which is that of a picture as a whole"
        remedy = f'put {{"0": "{BACKGROUND}"}} before the others in classes.json'
        problems.append(file_problem(file.path, found, remedy))
    return names, replace(file, names=names, images=tuple(images), problems=tuple(problems))


def _renumbered(
    file: AnnotationFile,
    image: BoxedImage,
    numbers: Sequence[int | None],
    names: Sequence[str],
    problems: list[Problem],
) -> BoxedImage:
    objects = []
    for each in image.objects:
        class_id = numbers[each.class_id]
        if class_id is not None:
            objects.append(replace(each, class_id=class_id))
            continue
        name = file.names[each.class_id]
        hint = suggestion(name, names, f"the classes are {', '.join(names)}")
        problems.append(entry_problem(file.path, each.entry, f"class {name!r} is not known", hint))
    return replace(image, objects=tuple(objects))
