"""The card of the copies that `evaluate` makes of samples by their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guided_diffusion import __version__
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.pipelines.cards.samples import COPIES, SEEN
from guided_diffusion.pipelines.training_source import last_name
from guided_diffusion.runtime.card_file import plain
from guided_diffusion.samples.dataset_card import ClassCounts, DatasetFacts, settings_rows, state_of, write_dataset_card
from guided_diffusion.samples.manifest import MANIFEST, read_manifest
from guided_diffusion.samples.reader import SampleFolder

CHOSEN = (
    "A segmenter chose them: pairs in which it does not find the mask are missing, whether the image or the segmenter "
    "is wrong, so rare and difficult ones may be. Their agreement with that segmenter says nothing any more."
)


def write_selected_card(
    folder: Path,
    samples: SampleFolder,
    pairs: Sequence[Pair],
    encoding: LabelEncoding,
    threshold: float,
    segmenter: str,
) -> str:
    """Write the card of `folder`, copies of `pairs` of `samples`, and return its path, as it is printed.

    threshold: the least agreement (0..1). segmenter: in words.
    """
    lines = read_manifest(folder / MANIFEST)
    synthetic = not samples.pseudo_labels
    parents = [("pairs", f"{len(lines)} of {len(samples.lines)}, digest {state_of(samples.lines.values())}")]
    name = last_name(str(samples.folder.parent if samples.split else samples.folder))
    labels = (read_mask(pair.mask, encoding).numpy() for pair in pairs)
    facts = DatasetFacts(
        title="Synthetic pairs, selected" if synthetic else "Real images with predicted masks, selected",
        what=f"Copies of the pairs of {plain(name)} in which a segmenter finds the mask. The card there says how these "
        "were made.",
        action="evaluate",
        count=len(lines),
        unit="pairs",
        synthetic=synthetic,
        sources=[*parents, ("segmenter", plain(segmenter))],
        settings=settings_rows({"filter_below": threshold}),
        limits=[CHOSEN, *((SEEN, COPIES) if synthetic else ())],
        use=["As the folder that they are copies of: `images/` and `masks/`, an image and its mask by the same name."],
        state=state_of(lines),
        version=__version__,
        classes=ClassCounts.of_masks(labels, encoding, len(pairs)),
    )
    return write_dataset_card(folder, facts)
