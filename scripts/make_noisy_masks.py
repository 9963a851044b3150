"""Make noisy masks of a dataset: the benchmark of SCDM (Ko et al. 2024), which imitates errors of annotators.

    python scripts/make_noisy_masks.py edge --data-dir data/magnetic_tile --dataset-mode lemon-multi-class \\
        --output data/magnetic_tile_edge
    python scripts/make_noisy_masks.py random --data-dir data/ade20k --dataset-mode ade20k --image-size 256 \\
        --masks-only --output data/ade20k_random

downsample: nearest neighbor down to 64 x 64 pixels (`--size`) and back.
edge: pixels within L1 distance 2 (`--distance`) of a pixel on a boundary become unlabeled. A pixel is on a boundary
    where one of its four neighbors has another label.
random: every pixel becomes unlabeled with probability 0.1 (`--share`).

"Unlabeled" is the class that the dataset has for it, or the class given by `--unlabeled`; otherwise it is
the null id, written as the dataset's ignore value. Where the dataset has none the largest free value is taken, which
`sample` has to be told as `ignore_label`.

The output is a copy of a split in its own layout, with the images as they are; instance maps are downsampled alike and
otherwise copied. With `--masks-only` it is a folder of masks for `mask_dir`. Noise is in pixels of the files; the
published one is in pixels of the network, which is what `--image-size` gives: masks are brought to that size first, as
sampling would. A mask's noise depends on `--seed` and on its name alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from dataset_folders import in_threads, natural, positive, put, run_script
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.classes_file import FILE_NAME, classes_text
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import atomic_write, write_text
from guided_diffusion.runtime.seeding import Stream, derive_seed

KINDS = ("downsample", "edge", "random")
RECORD = "noisy_masks.json"

Noise = Callable[[Tensor, str], Tensor]  # label [H, W] and the mask's name -> the noisy label [H, W]


def downsampled(label: Tensor, size: int) -> Tensor:
    """Return `label` [H, W] after nearest neighbor scaling to at most `size` x `size` pixels and back."""
    rows, columns = (_there_and_back(length, size) for length in label.shape[:2])
    return label[rows[:, None], columns[None, :]]


def _there_and_back(length: int, size: int) -> Tensor:
    """Return for each of `length` pixels the one whose value it gets, [length] int64.

    Each way a pixel takes the value at its center, as in PIL; but in integers, so that a center between two pixels is
    the right one's everywhere.
    """
    small = min(size, length)
    down = (2 * torch.arange(small) + 1) * length // (2 * small)
    return down[(2 * torch.arange(length) + 1) * small // (2 * length)]


def near_boundary(label: Tensor, distance: int) -> Tensor:
    """Return [H, W] booleans: pixels within L1 `distance` of one whose label differs from a 4-neighbor's."""
    near = edges_from_instances(label)
    for _ in range(distance):
        grown = near.clone()
        grown[1:] |= near[:-1]
        grown[:-1] |= near[1:]
        grown[:, 1:] |= near[:, :-1]
        grown[:, :-1] |= near[:, 1:]
        near = grown
    return near


def random_pixels(size: Sequence[int], share: float, seed: int, name: str) -> Tensor:
    """Return [H, W] booleans, each True with probability `share`; a function of `seed` and the mask's `name`."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    generator = np.random.default_rng(derive_seed(Stream.NOISY_MASK, seed, key))
    drawn: NDArray[np.float32] = generator.random(tuple(size), dtype=np.float32)
    return torch.from_numpy(drawn < share)


def build_noise(arguments: argparse.Namespace, unlabeled: int) -> Noise:
    """Return the noise that the command line asks for; `unlabeled` is what vanishing labels become."""

    def noise(label: Tensor, name: str) -> Tensor:
        if arguments.kind == "downsample":
            return downsampled(label, arguments.size)
        if arguments.kind == "edge":
            return label.masked_fill(near_boundary(label, arguments.distance), unlabeled)
        return label.masked_fill(random_pixels(label.shape, arguments.share, arguments.seed, name), unlabeled)

    return noise


def find_unlabeled(encoding: LabelEncoding, mode: DatasetMode, given: str | None) -> int:
    """Return the class id of unlabeled pixels: the class `given` (index or name), the dataset's, or the null id.

    Raises ConfigError for an unknown class `given`.
    """
    names = list(encoding.names)
    if given is None:
        return next(iter(mode.unlabeled_classes(names)), encoding.num_classes)
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < encoding.num_classes:
        return int(given)
    raise ConfigError(
        f"--unlabeled: {given!r} is not a class; give a name or an index from 0 to {encoding.num_classes - 1}"
    )


def writable(encoding: LabelEncoding) -> LabelEncoding:
    """Return the encoding with a value for ignored pixels; DataError if no value is free."""
    try:
        return encoding.with_ignore()
    except DataError:
        raise DataError(
            "--unlabeled: every mask value is a class, so that none is left for ignored pixels; name the "
            "class that unlabeled pixels get"
        ) from None


def open_split(arguments: argparse.Namespace) -> tuple[ScanReport, LabelEncoding]:
    """Return the scanned split and its encoding; DataError with a line for everything that is wrong with it."""
    report = scan_dataset(
        arguments.data_dir,
        get_mode(arguments.dataset_mode),
        arguments.split,
        num_classes=arguments.num_classes,
        ignore_label=arguments.ignore_label,
    )
    return report, report.raise_if_fatal()


def make(arguments: argparse.Namespace) -> None:
    """Write the noisy masks and print where they are."""
    source, output = Path(arguments.data_dir).absolute(), Path(arguments.output).absolute()
    if output.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--output: {arguments.output} is in the dataset itself; choose another folder")
    report, own = open_split(arguments)
    mode = get_mode(arguments.dataset_mode)
    unlabeled = find_unlabeled(own, mode, arguments.unlabeled)
    needs_ignore = unlabeled == own.num_classes and arguments.kind != "downsample"
    resize = arguments.resize or mode.resize
    borders = resize == "pad" and arguments.image_size is not None
    encoding = writable(own) if needs_ignore or borders else own
    _refuse_no_change(arguments, report)
    pairs = cast("tuple[Pair, ...]", report.pairs)
    targets = [_target(pair, source, output, arguments.masks_only) for pair in pairs]
    copies = [] if arguments.masks_only else [output / _relative(path, source) for path in _copied(pairs)]
    for target in (*targets, *copies):
        _refuse_other(target)
    if (source / FILE_NAME).is_file() and not arguments.masks_only:
        _refuse_other(output / FILE_NAME, classes_text(encoding))
    noise = build_noise(arguments, unlabeled)
    size = arguments.image_size
    transform = None if size is None else JointTransform((size[0], size[-1]), resize, train=False)
    write = partial(_write_pair, arguments=arguments, encoding=encoding, noise=noise, transform=transform)
    in_threads(lambda pair: write(*pair), list(zip(pairs, targets, strict=True)), "writing masks")
    if (source / FILE_NAME).is_file() and not arguments.masks_only:
        write_text(output / FILE_NAME, classes_text(encoding))
    record = {key: value for key, value in vars(arguments).items() if key != "output"}
    write_text(output / RECORD, json.dumps(record, indent=2) + "\n")
    print(f"{arguments.kind} noise in {len(pairs)} masks: {output}")
    if unlabeled < own.num_classes and arguments.kind != "downsample":
        print(f"unlabeled pixels are of class {unlabeled} ({own.names[unlabeled]})")
    if encoding is not own:
        _announce_value(encoding)


def _announce_value(encoding: LabelEncoding) -> None:
    """Print the value of ignored pixels if the dataset itself has none."""
    if encoding.kind == "rgb":
        print(
            f"ignored pixels are written as {encoding.ignore_colors[0]}, as the dataset has no color for them: a "
            "model reads these masks if it was trained with that as 'ignore' in classes.json; or name a class by "
            "--unlabeled"
        )
    else:
        value = encoding.ignore_values[0]
        print(
            f"ignored pixels are written as {value}, as the dataset has no value for them: sample reads these masks "
            f"with ignore_label={value}"
        )


def _refuse_no_change(arguments: argparse.Namespace, report: ScanReport) -> None:
    """Raise ConfigError where downsampling would leave every mask as it is."""
    largest = max(arguments.image_size or map(max, report.sizes))
    if arguments.kind == "downsample" and largest <= arguments.size:
        raise ConfigError(
            f"--size: is {arguments.size}, but no mask is larger than {largest} pixels; choose a smaller one"
        )


def _copied(pairs: Sequence[Pair]) -> list[str]:
    """Return the files that a copy of a split has beside the masks."""
    instances = [pair.instance for pair in pairs if pair.instance is not None and pair.instance != pair.mask]
    return [*(pair.image for pair in pairs), *instances]


def _refuse_other(path: Path, content: str | None = None) -> None:
    """Raise ConfigError for a file that is there, unless it has just this content."""
    if path.exists() and (content is None or path.read_bytes() != content.encode(errors="backslashreplace")):
        raise ConfigError(f"{path}: is there already; choose an empty --output, or delete this one")


def _target(pair: Pair, source: Path, output: Path, masks_only: bool) -> Path:
    return output / f"{pair.stem}.png" if masks_only else output / _relative(pair.mask, source)


def _relative(path: str, source: Path) -> Path:
    return Path(path).absolute().relative_to(source)


def _write_pair(
    pair: Pair,
    target: Path,
    *,
    arguments: argparse.Namespace,
    encoding: LabelEncoding,
    noise: Noise,
    transform: JointTransform | None,
) -> None:
    """Write a noisy mask to `target`, and unless `--masks-only`, its image and other files."""
    label = read_mask(pair.mask, encoding, upright=pair.upright)
    if transform is not None:
        height, width = label.shape
        label = transform.place((height, width)).mask(label, encoding.num_classes)
    _save(encoding.encode(noise(label, pair.stem)), target)
    if arguments.masks_only:
        return
    source, output = Path(arguments.data_dir).absolute(), Path(arguments.output).absolute()
    put(pair.image, output / _relative(pair.image, source), link=False)
    if pair.instance is not None and pair.instance != pair.mask:
        copied = output / _relative(pair.instance, source)
        if arguments.kind == "downsample":
            instance = open_mask(pair.instance, upright=pair.upright)
            _save(_downsampled_picture(instance, arguments.size), copied)
        else:
            put(pair.instance, copied, link=False)


def _downsampled_picture(picture: Image.Image, size: int) -> Image.Image:
    """Return what `downsampled` makes of the numbers in an instance map, which keep their depth or palette."""
    array = np.asarray(picture)
    if picture.mode == "I":  # how PIL gives 16-bit values in some versions
        array = array.astype(np.uint16)
    rows, columns = (_there_and_back(length, size).numpy() for length in array.shape[:2])
    result = Image.fromarray(array[rows[:, None], columns[None, :]])
    if picture.mode == "P":
        result.putpalette(picture.getpalette("RGB") or [])
    return result


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        if path.suffix.lower() != ".npy":
            picture.save(temporary, format="PNG")
            return
        with open(temporary, "wb") as file:  # numpy.save appends .npy to other names
            np.save(file, np.asarray(picture))


def main(argv: Sequence[str] | None = None) -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset-mode", required=True)
    parser.add_argument("--output", required=True, help="a new folder")
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--num-classes", type=positive, help="where the dataset does not say it")
    parser.add_argument("--ignore-label", type=int, help="mask value of ignored pixels")
    parser.add_argument("--unlabeled", metavar="CLASS", help="name or index of the class of unlabeled pixels")
    parser.add_argument("--masks-only", action="store_true", help="a folder of masks, for mask_dir")
    parser.add_argument(
        "--image-size",
        type=positive,
        nargs="+",
        metavar="PIXELS",
        help="bring masks to this side, or height and width, first; needs --masks-only",
    )
    parser.add_argument(
        "--resize", choices=["crop", "squash", "pad"], help="how, with --image-size; default: the mode's"
    )
    parser.add_argument("--size", type=positive, default=64, help="of downsample: rows and columns")
    parser.add_argument("--distance", type=positive, default=2, help="of edge: pixels")
    parser.add_argument("--share", type=_share, default=0.1, help="of random: probability")
    parser.add_argument("--seed", type=natural, default=0, help="of random")
    arguments = parser.parse_args(argv)
    if arguments.image_size is not None and not arguments.masks_only:
        parser.error("--image-size: the images stay as they are, and would not fit the masks; add --masks-only")
    if arguments.image_size is not None and len(arguments.image_size) > 2:
        parser.error("--image-size: give one side, or height and width")
    if arguments.resize is not None and arguments.image_size is None:
        parser.error("--resize: is about --image-size; give both or none")
    run_script(make, arguments)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, found {text!r}")
    return share


if __name__ == "__main__":
    main()
