"""The masks of unlabeled images: which images these are, what the classifiers say of them, and which become pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.modes import IMAGES, get_mode
from guided_diffusion.data.pairing import IMAGE_DIR_STEM, Pair, index_images
from guided_diffusion.data.scan.images import scan_images
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.labeling.uncertainty import keep_certain
from guided_diffusion.pipelines.segment.labeled import LabeledImages
from guided_diffusion.pipelines.segment.labeler import Labeler
from guided_diffusion.pipelines.segment.reader import ImageReader
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import PseudoLabel, file_digest
from guided_diffusion.samples.pseudo_folder import (
    PlannedPair,
    PredictedFolder,
    PredictedLine,
    labeled_pair,
    pseudo_pair,
    write_pairs,
)

POSITION_DIGITS = 15  # of an image's digest, which tell its place in the stream of noise


@dataclass(frozen=True)
class UnlabeledImages:
    """Images without a mask, with the height and width and the digest of each; stems are relative to image_dir.

    known: how many others were left out, as they are labeled ones.
    """

    images: tuple[Pair, ...]
    sizes: tuple[tuple[int, int], ...]
    digests: tuple[str, ...]
    known: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def by_stem(self) -> dict[str, str]:
        """The digests by stem."""
        return {image.stem: digest for image, digest in zip(self.images, self.digests, strict=True)}

    @property
    def paths(self) -> dict[str, str]:
        """Where each image is, as manifests name it, by stem."""
        return {
            image.stem: image.image if "://" in image.image else str(Path(image.image).absolute())
            for image in self.images
        }


def open_unlabeled(
    config: SegmentConfig, reader: ImageReader, labeled: Collection[str], *, progress: bool
) -> UnlabeledImages:
    """Scan the images of image_dir; DataError with a line for everything that cannot be used.

    labeled: digests of the labeled images, whose copies are left out.
    """
    images, problems = index_images("", get_mode(IMAGES), "train", config.image_dir)
    report = scan_images(
        images,
        problems,
        where=config.image_dir,
        image_channels=reader.channels,
        image_range=reader.image_range,
        exif=config.source.exif,
        progress=progress,
    )
    report.raise_if_fatal()
    if progress:
        # Gray or in colors is up to the network.
        for line in problem_lines(each for each in report.warnings if each.kind is not ProblemKind.IMAGE_COLORS):
            print(f"warning: {line}")
    found = [
        (replace(image, stem=image.stem.removeprefix(IMAGE_DIR_STEM)), size, file_digest(image.image))
        for image, size in zip(report.pairs, report.sizes, strict=True)
    ]
    new = [each for each in found if each[2] not in labeled]
    if not new:
        line = f"all of its {len(found)} images are labeled ones"
        raise DataError.of(config.image_dir, line, "give a folder with others")
    images, sizes, digests = (tuple(part) for part in zip(*new, strict=True))
    return UnlabeledImages(images, sizes, digests, known=len(found) - len(new))


def label_images(
    labeler: Labeler,
    unlabeled: UnlabeledImages,
    done: Collection[str],
    output: PredictedFolder,
    world: ProcessGroup,
    *,
    digest: str,
) -> None:
    """Write the masks of this process's share of the images that are not `done`; digest: of the classifier's file."""
    reader, paths = labeler.reader, unlabeled.paths
    todo = [number for number, image in enumerate(unlabeled.images) if image.stem not in done]
    output.open_part(world.rank)
    try:
        for number in tqdm(todo[world.rank :: world.size], "labeling", unit="image", disable=not world.is_main):
            image, size = unlabeled.images[number], unlabeled.sizes[number]
            tiles = reader.tiles(size)
            pixels = reader.pixels(image.image, tiles, upright=image.upright)
            # A function of the image alone, so that more images later change nothing.
            first = int(unlabeled.digests[number][:POSITION_DIGITS], 16)
            positions = [first + row for row in range(len(pixels))]
            made = labeler(pixels, positions, tiles, size)
            pseudo = PseudoLabel(
                image=paths[image.stem],
                digest=unlabeled.digests[number],
                score=made.score,
                confidence=made.confidence,
                ignored=made.ignored,
                classifier=digest,
            )
            output.write(image.stem, made.label, made.uncertainty, pseudo)
    finally:
        output.close_part()


def write_data_dir(
    config: SegmentConfig,
    output: PredictedFolder,
    lines: Sequence[PredictedLine],
    unlabeled: UnlabeledImages,
    labeled: LabeledImages | None,
) -> list[PredictedLine]:
    """Write the pairs of the certain images, and of the labeled ones if asked for; return the lines of the former."""
    kept = [
        lines[number] for number in keep_certain([line.pseudo.score for line in lines], config.labels.drop_uncertain)
    ]
    upright = {image.stem: image.upright for image in unlabeled.images}
    plan: list[PlannedPair] = []
    if labeled is not None and config.add_labeled:
        plan += [labeled_pair(*each) for each in zip(labeled.pairs, labeled.digests, strict=True)]
    plan += [pseudo_pair(output, line, upright=upright[line.stem]) for line in kept]
    folder = Path(config.output_dir) / config.split
    write_pairs(folder, plan, output.encoding, progress=tqdm(range(len(plan)), "writing pairs", unit="pair"))
    return kept
