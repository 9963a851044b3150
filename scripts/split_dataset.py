"""Split a plain folder of images/ and masks/ into train/ and test/, with each class in both if possible.

    python scripts/split_dataset.py --data-dir data/unsorted --output data/my_dataset --test-share 0.2

Images and masks pair by name. Every image counts for the rarest mask value in it (the one in the fewest images), and
the test images are spread evenly over the images so grouped: systematic sampling with implicit stratification. An image
that is the only one with its rarest value is for training, as long as others are left for testing. Pairs that show one
object (frames of a video, a part at several exposures) have to stay together, or the test measures memory: with
`--group-pattern` they do, and count as one. A table of the mask
values of both sides is printed. Which images are drawn depends on `--seed` and on the names and masks alone.

Files are copied (`--link`: hard links, for files on the same disk), with classes.json where there is one; the source
stays as it is, and nothing is overwritten.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from dataset_folders import (
    in_threads,
    natural,
    pattern,
    put,
    refuse_filled,
    refuse_inside,
    run_script,
    share,
    written_whole,
)

from evaluations.groups import numbered
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.held_out import draw_test_groups
from guided_diffusion.data.masks.classes_file import FILE_NAME
from guided_diffusion.data.masks.encoding import raw_mask
from guided_diffusion.data.modes import DatasetMode, FileRule
from guided_diffusion.data.pairing import Pair, index_pairs
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.runtime.errors import DataError

PLAIN = DatasetMode("plain", FileRule("images", (".jpg", ".jpeg", ".png")), FileRule("masks", (".png",)))
SHOWN_VALUES = 30
SIDES = ("train", "test")


def values_in(path: str) -> tuple[int, ...]:
    """Return the distinct values of a mask file in order: gray values, palette indices, or colors as 0xRRGGBB."""
    return tuple(np.unique(raw_mask(open_mask(path), path).values).tolist())


def split(arguments: argparse.Namespace) -> None:
    """Write the two splits, or nothing, and print their contents."""
    source, output = Path(os.path.abspath(arguments.data_dir)), Path(os.path.abspath(arguments.output))
    refuse_filled(output)
    for folder in ("images", "masks"):
        refuse_inside(output, source / folder)
    pairs, problems = index_pairs(source, PLAIN, "")
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise DataError(problem_lines(fatal))
    for line in problem_lines(problems):
        print(f"warning: {line}")
    if len(pairs) < 2:
        raise DataError(f"{source}: has {len(pairs)} pair, and a split needs one for each side; add more")
    values = in_threads(lambda pair: values_in(pair.mask), pairs, "reading masks")
    groups = numbered(groups_of(arguments.group_pattern, [pair.stem for pair in pairs]), len(pairs)).tolist()
    if len(set(groups)) < 2:
        raise DataError(f"--group-pattern {arguments.group_pattern!r} makes one group of all pairs; correct it")
    in_test = draw_test_groups(values, groups, arguments.test_share, arguments.seed).tolist()
    splits = [SIDES[chosen] for chosen in in_test]
    with written_whole(output) as folder:
        write = partial(_write, source=source, output=folder, link=arguments.link)
        in_threads(write, list(zip(pairs, splits, strict=True)), "writing pairs")
        if (source / FILE_NAME).is_file():
            put(source / FILE_NAME, folder / FILE_NAME, link=False)
    for line in _table(values, in_test):
        print(line)
    if arguments.group_pattern:
        sides = [len({group for group, side in zip(groups, splits, strict=True) if side == each}) for each in SIDES]
        print(f"{sides[0]} groups for training, {sides[1]} for testing")
    print(f"{splits.count('train')} pairs for training, {splits.count('test')} for testing: {output}")


def _write(item: tuple[Pair, str], *, source: Path, output: Path, link: bool) -> None:
    pair, folder = item
    for path in (pair.image, pair.mask):
        put(path, output / folder / Path(path).relative_to(source), link=link)


def _table(values: Sequence[Sequence[int]], in_test: Sequence[bool]) -> list[str]:
    """Return a line for every mask value: how many images of each side have it."""
    sides = (Counter[int](), Counter[int]())
    for present, test in zip(values, in_test, strict=True):
        sides[test].update(present)
    known = sorted(set(sides[0]) | set(sides[1]))
    lines = ["mask value  images for training  for testing"]
    lines += [f"{value:>10}  {sides[0][value]:>19}  {sides[1][value]:>11}" for value in known[:SHOWN_VALUES]]
    return lines + ([f"and {len(known) - SHOWN_VALUES} more values"] if len(known) > SHOWN_VALUES else [])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="the folder with images/ and masks/")
    parser.add_argument("--output", required=True, help="a new folder")
    parser.add_argument("--test-share", type=share, default=0.2, help="of the groups, or of the pairs without any")
    parser.add_argument(
        "--group-pattern",
        default="",
        type=pattern,
        help="regular expression: pairs whose names have the same in its parentheses, as (tile\\d+), stay together",
    )
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--link", action="store_true", help="hard links instead of copies")
    arguments = parser.parse_args(argv)
    run_script(split, arguments)


if __name__ == "__main__":
    main()
