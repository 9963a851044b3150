"""Bring CelebAMask-HQ as downloaded into the layout of dataset_mode celeba.

    python scripts/prepare_celebamask.py --data-dir CelebAMask-HQ --output data/celeba

The download has images, CelebA-HQ-img/<number>.jpg, and a mask for every part of a face,
CelebAMask-HQ-mask-anno/<folder>/<number as 00000>_<part>.png. The parts of a face are merged into one map of 19 classes
in the usual order: 0 where there is no part, and where parts overlap the later one (MaskGAN, Lee et al. 2020, g_mask.py
of its code). Maps, of 512 x 512 pixels, are enlarged to the size of their images by repeating pixels.

Images 0 to 27,999 are for training and 28,000 to 29,999 for testing, as in SCDM (Ko et al. 2024); `--first-test` moves
the border, and `--test-share` draws the test images at random, by `--seed`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import torch
from dataset_folders import (
    in_threads,
    named,
    natural,
    put,
    refuse_filled,
    refuse_inside,
    run_script,
    share,
    written_whole,
)
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data.files import list_files, open_image, open_mask
from guided_diffusion.data.held_out import count_in_test
from guided_diffusion.data.modes import PICTURES, get_mode
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import atomic_write

IMAGES = "CelebA-HQ-img"
ANNOTATIONS = "CelebAMask-HQ-mask-anno"
# fmt: off
PARTS = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
    "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
# fmt: on
CLASSES = {part: index for index, part in enumerate(PARTS, start=1)}
assert len(CLASSES) + 1 == get_mode("celeba").num_classes


class _Kind(Enum):
    NO_IMAGES = "no images"
    UNKNOWN_PART = "unknown part"
    DUPLICATE = "duplicate"
    WITHOUT_MASKS = "image without masks"
    WITHOUT_IMAGE = "mask without image"


@dataclass
class Face:
    """An image and the masks of its parts, by class."""

    image: str = ""
    parts: dict[int, str] = field(default_factory=dict)


def merge(parts: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return the label map [H, W] of one or more parts, class -> booleans [H, W]; the higher class covers the lower."""
    label = np.zeros(next(iter(parts.values())).shape, dtype=np.uint8)
    for index in sorted(parts):
        label[parts[index]] = index
    return label


def enlarge(label: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the label map at another size: every pixel takes the value at its center."""
    transform = JointTransform((height, width), "squash", train=False)
    placed = transform.place((label.shape[0], label.shape[1])).mask(torch.from_numpy(label), 0)
    return placed.numpy()


def find_faces(source: Path) -> dict[int, Face]:
    """Return number -> face of all images, sorted; DataError with a line for everything that does not fit together."""
    faces: dict[int, Face] = {}
    problems: list[Problem] = []
    for relative, path in _listed(source / IMAGES):
        if match := re.fullmatch(r"(\d+)\.(jpg|jpeg|png)", relative.lower()):
            face = faces.setdefault(int(match[1]), Face())
            if face.image:
                problems.append(_second(path, face.image))
            face.image = path
    for relative, path in _listed(source / ANNOTATIONS):
        match = re.fullmatch(r"(?:.*/)?(\d+)_(\w+)\.png", relative.lower())
        if match is None:
            if relative.lower().endswith(PICTURES):
                remedy = "rename it to a name such as 00000_skin.png, or remove it"
                problems.append(Problem(path, "is not named as the mask of a part", remedy, _Kind.UNKNOWN_PART))
            continue
        if match[2] not in CLASSES:
            problems.append(Problem(path, f"part {match[2]!r} is not known", "remove or rename it", _Kind.UNKNOWN_PART))
            continue
        parts = faces.setdefault(int(match[1]), Face()).parts
        if CLASSES[match[2]] in parts:
            problems.append(_second(path, parts[CLASSES[match[2]]]))
        parts[CLASSES[match[2]]] = path
    problems += _incomplete(faces, source)
    if problems:
        raise DataError(problem_lines(problems))
    return dict(sorted(faces.items()))


def _listed(folder: Path) -> list[tuple[str, str]]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: the folder does not exist; --data-dir is the folder with {IMAGES} and {ANNOTATIONS}"
        )
    return list_files(folder)


def _second(path: str, first: str) -> Problem:
    return Problem(path, f"stands for the same as {first}", "keep one of them", _Kind.DUPLICATE)


def _incomplete(faces: Mapping[int, Face], source: Path) -> list[Problem]:
    if not faces:
        return [Problem(str(source / IMAGES), "no images such as 0.jpg found", "put them there", _Kind.NO_IMAGES)]
    problems = []
    for number, face in sorted(faces.items()):
        if not face.parts:
            remedy = f"add {number:05d}_skin.png and the others, or remove the image"
            problems.append(Problem(face.image, "image without masks", remedy, _Kind.WITHOUT_MASKS))
        elif not face.image:
            remedy = f"add {source / IMAGES / f'{number}.jpg'}, or remove the masks"
            part = next(iter(face.parts.values()))
            problems.append(Problem(part, "mask without image", remedy, _Kind.WITHOUT_IMAGE))
    return problems


def read_label(face: Face) -> NDArray[np.uint8]:
    """Return the merged label map of a face [H, W] at the size of its image; DataError for files that do not fit."""
    masks = {index: _is_part(path) for index, path in face.parts.items()}
    first, *others = face.parts
    for index in others:
        if masks[index].shape != masks[first].shape:
            sizes = (_size(masks[index].shape), _size(masks[first].shape))
            raise DataError(f"{face.parts[index]}: is {sizes[0]}, but {face.parts[first]} {sizes[1]}; make them alike")
    label = merge(masks)
    width, height = open_image(face.image).size
    if height * label.shape[1] != width * label.shape[0]:
        shapes = (_size((height, width)), _size(label.shape))
        raise DataError(f"{face.image}: is {shapes[0]}, but its masks {shapes[1]}; bring them to the same aspect ratio")
    return enlarge(label, height, width)


def _is_part(path: str) -> NDArray[np.bool_]:
    """Return where a mask, black and white and usually saved in color, is not black."""
    array = np.asarray(open_mask(path).convert("RGB"))
    # Several times as fast as any(axis=2).
    return (array[..., 0] | array[..., 1] | array[..., 2]) != 0


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def numbers_for_testing(numbers: Sequence[int], arguments: argparse.Namespace) -> set[int]:
    """Return the numbers of the images for testing; ConfigError where there are none, or none for training."""
    if arguments.test_share is not None and len(numbers) > 1:
        count = count_in_test(len(numbers), arguments.test_share)
        return set(np.random.default_rng(arguments.seed).permutation(numbers)[:count].tolist())
    chosen = {number for number in numbers if number >= arguments.first_test}
    if not chosen or len(chosen) == len(numbers):
        raise ConfigError(
            f"--first-test: is {arguments.first_test}, but the images ({named(numbers)}) go from {numbers[0]} to "
            f"{numbers[-1]}, so that one split is empty; choose a number between, or --test-share"
        )
    return chosen


def prepare(arguments: argparse.Namespace) -> None:
    """Write the dataset, or nothing, and print where it is."""
    source, output = Path(arguments.data_dir).absolute(), Path(arguments.output).absolute()
    refuse_filled(output)
    for folder in (IMAGES, ANNOTATIONS):
        refuse_inside(output, source / folder)
    faces = find_faces(source)
    in_test = numbers_for_testing(list(faces), arguments)
    splits = ["test" if number in in_test else "train" for number in faces]
    with written_whole(output) as folder:
        write = partial(_write, output=folder, link=arguments.link)
        in_threads(write, list(zip(faces.values(), splits, strict=True)), "merging masks")
    print(f"{splits.count('train')} pairs for training, {splits.count('test')} for testing: {output}")


def _write(item: tuple[Face, str], *, output: Path, link: bool) -> None:
    face, split = item
    image = Path(face.image)
    label = read_label(face)
    with atomic_write(output / split / "labels" / f"{image.stem}.png") as temporary:
        Image.fromarray(label).save(temporary, format="PNG")
    put(image, output / split / "images" / image.name, link=link)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help=f"the folder with {IMAGES} and {ANNOTATIONS}")
    parser.add_argument("--output", required=True, help="a new folder, the data_dir of dataset_mode celeba")
    parser.add_argument("--first-test", type=natural, default=28_000, help="number of the first image for testing")
    parser.add_argument("--test-share", type=share, help="draw this share of the images for testing")
    parser.add_argument("--seed", type=natural, default=0, help="of --test-share")
    parser.add_argument("--link", action="store_true", help="hard links to the images instead of copies")
    arguments = parser.parse_args(argv)
    run_script(prepare, arguments)


if __name__ == "__main__":
    main()
