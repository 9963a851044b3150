"""The card of a folder of `sample`, `place`, `paste` or `generate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from guided_diffusion import __version__
from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.paste import PasteConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.scenes import ScenesConfig
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.looks import ComparedLooks
from guided_diffusion.pipelines.training_source import last_name, source_text, training_source
from guided_diffusion.runtime.card_file import plain
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.samples.dataset_card import (
    NO_IMAGES,
    NOT_EVALUATED,
    SEGMENTATION,
    UNCONDITIONAL,
    ClassCounts,
    DatasetFacts,
    joined_digest,
    settings_rows,
    state_of,
    write_dataset_card,
)
from guided_diffusion.samples.manifest import IMAGES_ALONE, MASKS_ALONE, ManifestLine, SampleSettings, ScenesSettings
from guided_diffusion.samples.writer import SyntheticFolder

PairsConfig = SampleConfig | PlaceConfig | PasteConfig | GenerateConfig
SEEN = (
    "A model can only show what its training images have: shapes, backgrounds and cameras that these lack are lacking "
    "here, too."
)
PASTED = (
    "They show the defects of their source, and none that it lacks: pixels of it are in them, so treat them as "
    "confidential as the source."
)
COPIES = "Models of few images may copy them. Treat these files as confidential as the source."
OF_TEST = "They were made of the test split: no model that is trained on them may be tested on that split."
_NOT_SETTINGS = ("checkpoint", "classifier", "mask_checkpoint", "layouts", "inputs", "features", "read_npz", "eta_path")
"""Settings that are digests: of sources, which have a table of their own."""


def write_sample_card(
    config: PairsConfig,
    output: SyntheticFolder,
    lines: Sequence[ManifestLine],
    checkpoint: Checkpoint | None,
    trained: TrainedConfig | None,
    looks: ComparedLooks | None = None,
) -> str:
    """Write the card of the finished folder `output` and return its path, as it is printed.

    checkpoint: None for what no model made, and, as trained, for pairs of a published file. looks: of placed defects,
    beside real ones.
    """
    facts = sample_facts(config, output, lines, checkpoint, trained)
    if looks is not None:
        facts = replace(facts, extra={**facts.extra, "Contrast": looks.card_lines()})
    return write_dataset_card(output.folder, facts)


def sample_facts(
    config: PairsConfig,
    output: SyntheticFolder,
    lines: Sequence[ManifestLine],
    checkpoint: Checkpoint | None,
    trained: TrainedConfig | None,
) -> DatasetFacts:
    """Return what the card of a folder of samples says."""
    settings = output.settings
    shown = {key: value for key, value in settings.model_dump().items() if key not in _NOT_SETTINGS}
    rows = settings_rows(shown)
    if trained is not None and not isinstance(config, ScenesConfig):
        height, width = height_width(trained.geometry.image_size)
        rows.insert(0, ("image size", f"{width} x {height} px"))
    if isinstance(config, GenerateConfig):
        chosen_by = {
            "drop_uncertain": config.labels.drop_uncertain,
            "published_filter": config.published_filter or None,
        }
        rows += settings_rows(chosen_by)
    title, what, unit, limits = _kind(config, settings, lines)
    pairs = "image" in settings.kinds and "mask" in settings.kinds
    return DatasetFacts(
        title=title,
        what=what,
        action=settings.action,
        count=len(lines),
        unit=unit,
        synthetic=True,
        sources=_sources(config, settings, lines, checkpoint),
        settings=rows,
        limits=[*limits, *([PASTED] if isinstance(config, PasteConfig) else [SEEN, COPIES])],
        use=_use(settings, pairs),
        state=state_of(lines),
        version=__version__,
        classes=_counts(output, lines),
        task=UNCONDITIONAL if settings.generates == IMAGES_ALONE else SEGMENTATION,
        tags=[] if isinstance(config, PasteConfig) else ["diffusion"],
        evaluation=NOT_EVALUATED if pairs else NO_IMAGES,
        extra=_defects(lines),
    )


def _counts(output: SyntheticFolder, lines: Sequence[ManifestLine]) -> ClassCounts | None:
    if output.encoding is None:
        return None
    with_masks = [line for line in lines if line.mask]
    return ClassCounts.of_masks(output.labels(with_masks), output.encoding, len(with_masks))


def _kind(
    config: PairsConfig, settings: SampleSettings, lines: Sequence[ManifestLine]
) -> tuple[str, str, str, list[str]]:
    """Return title, sentence, unit and own limits of what such settings make."""
    if isinstance(config, PlaceConfig):
        return _kind_of_placed(config)
    if isinstance(config, PasteConfig):
        what = "Real images without defects, into which real defects of other images were pasted, and their masks."
        blend = {"match": "matched in brightness", "poisson": "Poisson-blended", "none": ""}[config.blend]
        made = ", ".join(filter(None, ["edited" if config.placing.edit else "", blend]))
        limit = f"Only the defects are not where they were{made and f' ({made})'}. No person judged the result."
        return "Pasted defects in real images", what, "pairs", [limit]
    if isinstance(config, GenerateConfig):
        what = (
            "Synthetic images that a diffusion model drew without a mask, and masks that pixel classifiers, trained on "
            "few labeled images, found in them."
        )
        limit = "No person drew these masks: the classifiers are as good as their held-out scores, which `segment` has."
        return "Synthetic images, classified", what, "pairs", [limit]
    if settings.generates == IMAGES_ALONE:
        what = "Synthetic images of a diffusion model without a condition. There are no masks."
        return "Synthetic images", what, "images", []
    if settings.generates == MASKS_ALONE:
        return (
            "Synthetic masks",
            "Label maps that a diffusion model made. There are no images.",
            "masks",
            _faults(lines),
        )
    if settings.generates is not None:
        what = "Synthetic image/mask pairs: one diffusion model made both, the mask with the image."
        return "Synthetic pairs", what, "pairs", _faults(lines)
    if settings.layout_source is not None:
        what = "Synthetic images that a diffusion model drew from classes and boxes, and masks that it predicted."
        limit = "The masks are what the model says of where it drew the objects: no person drew or checked them."
        return "Synthetic images of boxes", what, "pairs", [limit, *_of_test(config)]
    what = "Synthetic images that a diffusion model drew from given masks, and these masks."
    limit = "The images were drawn to follow the masks; no person compared the two."
    return "Synthetic pairs of given masks", what, "pairs", [limit, *_of_test(config)]


def _kind_of_placed(config: PlaceConfig) -> tuple[str, str, str, list[str]]:
    if config.erase:
        what = "Real images in which a diffusion model painted over the defects, and masks without these."
        limit = "Where a defect was painted over, the image is synthetic; traces of it may be left around the hole."
        return "Images with defects painted over", what, "pairs", [limit]
    what = "Real images without defects, into which a diffusion model painted defects, and the masks of these."
    limits = ["Only the defects are synthetic. No person judged whether they look like real ones."]
    if config.paste_noise is not None:
        limits.append("Painting began with the pixels of training defects, of which these are variations.")
    return "Synthetic defects in real images", what, "pairs", limits


def _of_test(config: SampleConfig) -> list[str]:
    if config.data_split != "test" or not config.source.data_dir:
        return []
    return [OF_TEST]


def _faults(lines: Sequence[ManifestLine]) -> list[str]:
    made = [line.generated for line in lines if line.generated is not None]
    faulty = sum(bool(each.faults) for each in made)
    return ["No person drew or checked the masks."] + (
        [f"{faulty} of {len(made)} masks have faults after several attempts; the manifest names them."]
        if faulty
        else []
    )


def _sources(
    config: PairsConfig,
    settings: SampleSettings,
    lines: Sequence[ManifestLine],
    checkpoint: Checkpoint | None,
) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if isinstance(config, PasteConfig):
        rows = [("defects of", plain(last_name(config.source.data_dir)))]
    elif checkpoint is not None:
        rows = [
            ("network trained on", source_text(training_source(checkpoint))),
            ("its checkpoint", f"digest {settings.checkpoint}, weights {plain(config.weights.weights)}"),
        ]
    digests = {line.source[1] for line in lines if line.source[1]}
    if digests:
        what, where = _made_of(config)
        rows.append((what, f"{len(digests)} of {plain(where)}, digest {joined_digest(digests)}"))
    for key, title in (
        ("classifier", "pixel classifiers"),
        ("mask_checkpoint", "model that made the masks"),
        ("layouts", "layouts"),
        ("inputs", "training masks and other inputs"),
        ("read_npz", "published file"),
    ):
        if (digest := getattr(settings, key, None)) is not None:
            rows.append((title, f"digest {digest}"))
    made_of = {each.digest for line in lines if line.lineage is not None for each in line.lineage.masks}
    if made_of:
        splits = sorted({line.lineage.split for line in lines if line.lineage is not None})
        text = f"{len(made_of)} masks of {plain(', '.join(splits))}, digest {joined_digest(made_of)}"
        rows.append(("new masks or layouts made of", text))
    return rows


def _made_of(config: PairsConfig) -> tuple[str, str]:
    """Return what kind of file each pair was made of, and the name of the folder they are of."""
    if isinstance(config, ScenesConfig):
        erases = isinstance(config, PlaceConfig) and config.erase
        what, folder = ("images", config.source.data_dir) if erases else ("good images", config.good_dir)
        return what, last_name(folder)
    folder, split = config.source.data_dir, ""
    if isinstance(config, SampleConfig):
        folder, split = (folder, f" ({config.data_split})") if folder else (config.mask_dir, "")
    return "masks", f"{last_name(folder)}{split}"


def _defects(lines: Sequence[ManifestLine]) -> dict[str, list[str]]:
    placed = Counter(defect.name for line in lines for defect in line.defects or ())
    if not placed:
        return {}
    rows = [f"| {plain(name)} | {count} |" for name, count in sorted(placed.items())]
    return {"Defects": ["| class | defects |", "|---|---:|", *rows]}


def _use(settings: SampleSettings, pairs: bool) -> list[str]:
    files = {"image": "`images/`", "mask": "`masks/`"}
    there = " and ".join(files[kind] for kind in settings.kinds)
    lines = [f"{there}: PNG files{', an image and its mask by the same name' if pairs else ''}."]
    if "mask" in settings.kinds:
        lines.append("`classes.json`, here or in the folder above, says which mask value is which class.")
    lines.append("`manifest.jsonl` has a line for each: its files, its seed, and what it was made of.")
    text = [" ".join(lines)]
    if pairs:
        # Pairs of good images have the sizes of the good images, so that evaluate has to be told one.
        size = " --set image_size=SIDE" if isinstance(settings, ScenesSettings) else ""
        text += [
            "",
            "```bash",
            f"isdm evaluate --set data_dir=REAL_DATA --set synthetic_dir=THIS_FOLDER --set output_dir=runs/eval{size}",
            "isdm export --set data_dir=THIS_FOLDER --set format=coco --set export_path=exported",
            "```",
        ]
    return text
