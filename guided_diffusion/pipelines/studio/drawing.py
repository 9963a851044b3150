"""Images drawn for the studio: of a painted mask, or into a hole of an image that is kept otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data.components import Box
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.visualize import Pixels, quantize
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.holes import GrownHole, Hole
from guided_diffusion.pipelines.inpainting import Painting, fill_windows, paint_image
from guided_diffusion.pipelines.sample_settings import sampler_settings
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.pipelines.studio.bases import Base, pair_base
from guided_diffusion.pipelines.studio.workplace import Workplace
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.samples.accepted_folder import AcceptedPair
from guided_diffusion.samples.manifest import (
    MaskLineage,
    MaskOrigin,
    PlacedDefect,
    PlaceSettings,
    SampleSettings,
)
from guided_diffusion.samples.mark import SourceType

AT_A_TIME = 4
"""Images, or windows, that the network draws at a time."""
Tell = Callable[[dict[str, Any]], None]


class PairRef(NamedTuple):
    """A real pair, by its split and number."""

    split: str
    index: int


class GoodRef(NamedTuple):
    """A good image, by its number."""

    index: int


@dataclass(frozen=True, eq=False)
class Wish:
    """What is to be drawn: `count` images of a mask, [H, W] class ids of the canvas.

    start: the mask that painting began from. base: the image that is kept outside of what was painted. parts: the
    training masks of which it has parts of the shelf.
    """

    label: NDArray[np.integer]
    count: int
    seed: int
    sampler: SamplerOptions
    start: PairRef | None
    base: PairRef | GoodRef | None
    parts: tuple[MaskOrigin, ...] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """An image that was drawn: as the page shows it, what the segmenter sees, and what is written if it is accepted."""

    png: bytes
    predicted: NDArray[np.integer] | None
    pair: AcceptedPair


Keep = Callable[[int, Candidate], None]


def base_of(workplace: Workplace, ref: PairRef | GoodRef) -> Base:
    """Return the image that is kept; DataError for one that cannot be used, or where the network fills no holes."""
    if not workplace.inpaints:
        raise DataError.of("base", "the model fills no holes", "draw without a base")
    if isinstance(ref, GoodRef):
        return workplace.goods.of(ref.index)
    image, label = workplace.pairs.image(*ref), workplace.pairs.label(*ref)
    return pair_base(workplace.config, workplace.trained, workplace.encoding, image, label)


def canvas_size(workplace: Workplace, ref: PairRef | GoodRef | None) -> tuple[int, int]:
    """Return height and width of the canvas that a wish with this base has."""
    if isinstance(ref, GoodRef):
        return base_of(workplace, ref).shown
    return workplace.size


def draw(workplace: Workplace, wish: Wish, keep: Keep, tell: Tell, cancelled: Callable[[], bool]) -> None:
    """Draw the images of a wish, hand each to `keep` and say so; events as the page reads them.

    Raises Cancelled where `cancelled()` is true, UserError for what cannot be drawn.
    """
    assert workplace.pipeline is not None
    run = workplace.pipeline.begin(wish.sampler, extrapolation=workplace.config.extrapolation)
    origin = Origin.of(workplace, wish)
    if wish.base is None:
        _draw_whole(workplace, wish, run, origin, keep, tell, cancelled)
    else:
        _Painted(workplace, wish, run, origin, base_of(workplace, wish.base)).draw(keep, tell, cancelled)


def _seeds(wish: Wish) -> list[int]:
    """Return the seed of each image, as `sample` derives them from the run's."""
    return [derive_seed(Stream.SAMPLE, wish.seed, number) for number in range(wish.count)]


def _draw_whole(
    workplace: Workplace,
    wish: Wish,
    run: SamplingRun,
    origin: Origin,
    keep: Keep,
    tell: Tell,
    cancelled: Callable[[], bool],
) -> None:
    seeds, total = _seeds(wish), wish.count * run.num_steps
    condition = run.pipeline.condition_of(np.repeat(wish.label[None], wish.count, axis=0))
    settings = SampleSettings(run_seed=wish.seed, **sampler_settings(wish.sampler, run.num_steps), **workplace.settings)
    for start in range(0, wish.count, AT_A_TIME):
        part = slice(start, start + AT_A_TIME)

        def report(done: int, _: int, before: int = start * run.num_steps) -> None:
            tell({"type": "step", "done": before + done, "total": total})

        images = run(condition[part], seeds[part], progress=report, cancelled=cancelled)
        for number, image in enumerate(images, start):
            picture = quantize(image.numpy()[None])[0]
            png = png_of(picture)
            pair = origin.pair(png, wish.label, settings, seeds[number], number)
            _finish(workplace, number, picture, wish.label, png, pair, keep, tell)


def _finish(
    workplace: Workplace,
    number: int,
    seen: Pixels,
    label: NDArray[np.integer],
    png: bytes,
    pair: AcceptedPair,
    keep: Keep,
    tell: Tell,
    part: Box | None = None,
) -> None:
    """Hand a drawn image on, then what the segmenter says of it. part: the box of it that the segmenter looks at."""
    keep(number, Candidate(png, None, pair))
    tell({"type": "image", "j": number})
    if workplace.judge is None:
        return
    box = part or Box(0, 0, *label.shape)
    found, figures = workplace.judge.look(seen[box.slices], label[box.slices])
    predicted = label.copy()
    predicted[box.slices] = found
    keep(number, Candidate(png, predicted, pair))
    real = workplace.judge.real
    tell({"type": "agreement", "j": number, **figures.to_json(), "real": None if real is None else real.to_json()})


class _Painted:
    """Holes of one image filled `count` times."""

    def __init__(self, workplace: Workplace, wish: Wish, run: SamplingRun, origin: Origin, base: Base):
        self.workplace, self.wish, self.run, self.origin, self.base = workplace, wish, run, origin, base
        self.finished = base.painted(wish.label)
        self.holes = base.holes(self.finished)
        self.grown = base.grown(self.holes)

    def draw(self, keep: Keep, tell: Tell, cancelled: Callable[[], bool]) -> None:
        """Fill the holes and hand on each image; DataError where nothing was painted."""
        if not self.holes:
            raise DataError.of("labels", "nothing is painted on the image", "paint a defect, or erase one")
        tell({"type": "hole"})
        done, finished_before = 0, 0
        total = self.wish.count * len(self.grown) * self.run.num_steps

        def stepped(images_done: int, images_total: int) -> None:
            nonlocal done, finished_before
            done = finished_before + images_done
            if images_done == images_total:
                finished_before = done
            tell({"type": "step", "done": min(done, total), "total": total})

        filled = fill_windows(
            self.run, self.base.settings, self._paintings(), AT_A_TIME, lambda: None, steps=stepped, cancelled=cancelled
        )
        for number, image in filled:
            self._hand_on(number, image, keep, tell)

    def _paintings(self) -> Iterator[tuple[tuple[int, NativeImage], Painting]]:
        for number, seed in enumerate(_seeds(self.wish)):
            image = self.base.copy()
            yield (number, image), paint_image(image, self.finished, self.holes, self.base.settings, seed)

    def _hand_on(self, number: int, image: NativeImage, keep: Keep, tell: Tell) -> None:
        wish, base, config = self.wish, self.base, self.workplace.config
        picture, content = base.picture(image), io.BytesIO()
        image.save(content)
        # Encoding an image of 12 megapixels takes seconds.
        same = image.alpha is None and picture.dtype == image.pixels.dtype and np.array_equal(picture, image.pixels)
        shown = content.getvalue() if same else png_of(picture, quick=True)
        settings = PlaceSettings(
            run_seed=wish.seed,
            **sampler_settings(wish.sampler, self.run.num_steps),
            **self.workplace.settings,
            scale=base.settings.scale,
            hole_margin=config.hole_margin,
            feather=float(config.feather),
            mask_source="studio",
        )
        pair = self.origin.pair(
            content.getvalue(), self.finished, settings, _seeds(wish)[number], number,
            kind="compositeWithTrainedAlgorithmicMedia", defects=self._defects(),
        )  # fmt: skip
        seen = self._shown_label
        _finish(self.workplace, number, picture, seen, shown, pair, keep, tell, self._surroundings(seen.shape))

    @property
    def _shown_label(self) -> NDArray[np.integer]:
        """The finished label map as the canvas shows it."""
        base = self.base
        return Base(base.pixels, self.finished, base.shown, base.settings, base.keep_ground).canvas_label

    def _defects(self) -> list[PlacedDefect]:
        names, settings = self.workplace.encoding.names, self.base.settings
        painted = [(hole, int(self.finished[hole.box.slices][hole.mask][0])) for hole in self.holes]
        ground = (settings.background, settings.num_classes)
        return [
            PlacedDefect.of(names[class_id], hole.box, "studio") for hole, class_id in painted if class_id not in ground
        ]

    def _surroundings(self, shape: tuple[int, ...]) -> Box:
        """Return the part of the canvas around the holes, of a window at least, at which the segmenter looks."""
        box = Box.around(self.base.shown_hole(self.grown))
        return box.framed([*map(max, self.base.settings.window, box.size)], shape)


def hole_of(workplace: Workplace, wish: Wish) -> NDArray[np.bool_] | None:
    """Return what of the canvas is painted anew, [h, w]; None without a base."""
    if wish.base is None:
        return None
    base = base_of(workplace, wish.base)
    holes: list[Hole] = base.holes(base.painted(wish.label))
    grown: list[GrownHole] = base.grown(holes)
    return base.shown_hole(grown)


def png_of(picture: Pixels, *, quick: bool = False) -> bytes:
    """Return a picture [H, W, 1 or 3] as PNG, as `sample` writes it; quick: a tenth larger, for the page alone."""
    content = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[2] == 1 else picture))
    image.save(content, format="PNG", **({"compress_level": 1} if quick else {}))
    return content.getvalue()


@dataclass(frozen=True)
class Origin:
    """What a painted mask began from, for the manifest."""

    source: MaskOrigin | None
    split: str
    edited: bool
    lineage: MaskLineage | None
    good: MaskOrigin | None

    @classmethod
    def of(cls, workplace: Workplace, wish: Wish) -> Origin:
        """Return the origin of a wish: the real pairs that it has anything of, by the digests of their files."""
        refs = [ref for ref in (wish.start, wish.base) if isinstance(ref, PairRef)]
        labels = {ref: workplace.pairs.label(*ref) for ref in refs}
        pairs = {ref: workplace.pairs.pairs[ref.split][ref.index] for ref in refs}
        masks = [workplace.pairs.reads.origin(pair.mask) for pair in pairs.values()]
        images = []
        if isinstance(wish.base, PairRef):
            images = [workplace.pairs.reads.origin(pairs[wish.base].image)]
        good = None
        if isinstance(wish.base, GoodRef):
            workplace.goods.of(wish.base.index)
            good = workplace.goods.reads.origin(workplace.goods.images[wish.base.index].image)
        split = "test" if any(ref.split == "test" for ref in refs) else next((ref.split for ref in refs), "")
        same = wish.start is not None and wish.label.shape == workplace.size
        edited = not (same and np.array_equal(wish.label, labels[wish.start]))
        lineage = None
        if edited or images or good is not None:
            # Parts may have been turned by hand.
            lineage = MaskLineage(
                split=split or ("train" if wish.parts else ""),
                upside_down=edited,
                left_to_right=edited,
                masks=list(dict.fromkeys([*masks, *wish.parts])),
                images=images,
            )
        return cls(masks[0] if masks else None, split, edited, lineage, good)

    def pair(
        self,
        image: bytes,
        label: NDArray[np.integer],
        settings: SampleSettings,
        seed: int,
        number: int,
        *,
        kind: SourceType = "trainedAlgorithmicMedia",
        defects: list[PlacedDefect] | None = None,
    ) -> AcceptedPair:
        """Return an image and its mask as they are accepted."""
        return AcceptedPair(
            image, label, settings, seed, number, self.source, self.split, self.edited, self.lineage,
            self.good, tuple(defects or ()), kind,
        )  # fmt: skip
