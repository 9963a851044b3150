"""`masks`: new masks made of those of a dataset, and their statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from guided_diffusion.config.masks import MasksConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import count_pairs
from guided_diffusion.data.placing.bank import class_ids
from guided_diffusion.pipelines.cards.masks import write_masks_card
from guided_diffusion.pipelines.hub_weights import with_pinned_weights
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.mask_editing import MaskSource, compare_masks, open_masks
from guided_diffusion.pipelines.masks import read_otherwise
from guided_diffusion.pipelines.output import dataset_folders, output_of, refuse_other_record, refuse_written_sources
from guided_diffusion.runtime.distributed import ProcessGroup, init_distributed
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import read_run_record, write_run_record
from guided_diffusion.samples.mask_folder import ACTION, MASKS, MaskFolder, MaskLine

SHEET, STATISTICS = "contact_sheet.png", "statistics.json"
SHEET_ROWS, SHEET_MASKS = 8, 4
_TILE = 160  # px of the longer side of a mask on the sheet
_MANY = 5  # masks that were drawn too often, from which on it is said


def run(config: MasksConfig) -> int:
    """Make the masks that `config` asks for and that are not there yet, and compare all with those of the dataset."""
    config = with_pinned_weights(config)
    with init_distributed("cpu") as world:
        _refuse_sources(config)
        folder = Path(config.results_path)
        refuse_other_record("results_path", folder, ACTION)
        with output_of(ACTION, [folder], world):
            _make(config, world)
    return 0


def plan(config: MasksConfig) -> list[str]:
    """Return how many masks would be made of how many; UserError where a run could not begin."""
    _refuse_sources(config)
    mode = get_mode(config.source.dataset_mode)
    pairs = count_pairs(config.source.data_dir, mode, config.data_split)
    if config.method != "boxes":  # whose classes are those of its network
        names = known_classes(config.source)
        flip_pairs(names, config.source.flip_pairs)
        class_ids("movable", config.masks.movable, names, ground=mode.background)
    return [f"{config.num_masks or pairs} masks, made of {pairs} of data_split {config.data_split}"]


def _refuse_sources(config: MasksConfig) -> None:
    """Raise ConfigError where results would lie among what is read."""
    folder = Path(config.results_path)
    get_mode(config.source.dataset_mode)
    refuse_written_sources({"results_path": [folder, folder / MASKS]}, dataset_folders(config.source))


def _make(config: MasksConfig, world: ProcessGroup) -> None:
    source = world.run_everywhere(partial(open_masks, config, progress=world.is_main))
    output = MaskFolder(config.results_path, source.encoding, config.data_split, _settings(config, source))
    world.run_on_main(lambda: _refuse_other_reading(config, source, output))
    count = len(source.pairs) if config.num_masks is None else config.num_masks
    done = world.run_on_main(lambda: output.begin(count))
    if world.is_main:
        write_run_record(output.folder, ACTION, config.to_json())
        there = sum(number in done for number in range(count))
        print(
            f"{output.counts(count, there, 'mask')}, made of {len(source.pairs)} of "
            f"data_split {config.data_split}; {source.summary}"
        )
        if config.data_split == "test":
            print("warning: data_split is test: a model trained on samples of these masks has seen the test")
    todo = [number for number in range(count) if number not in done][world.rank :: world.size]
    origins = source.origins
    output.open_part(world.rank)
    try:
        for number in tqdm(todo, desc="making masks", unit="mask", disable=not world.is_main):
            output.write(number, source.editor.edit(config.seed, number), origins)
    finally:
        output.close_part()
    world.barrier()
    if world.is_main:
        _finish(config, source, output, count)
    world.barrier()


def _settings(config: MasksConfig, source: MaskSource) -> dict[str, object]:
    """Return what all masks of a folder share."""
    options = config.masks.model_dump(mode="json")
    if config.method == "boxes":  # folders of edited masks from before there was a choice lack these
        options |= {"method": "boxes", "layout_source": config.layout_source}
    options |= source.settings
    return {"seed": config.seed, "data_split": config.data_split, **options, "inputs": source.inputs}


def _refuse_other_reading(config: MasksConfig, source: MaskSource, output: MaskFolder) -> None:
    """Raise DataError where the run's record says that the masks there had other classes exchanged, or other turns."""
    record = read_run_record(output.folder)
    if not record or not any((output.folder / MASKS).glob("*.png")):
        return
    if found := read_otherwise(record, config.source, source.encoding.names, source.pairs):
        raise DataError.of(output.manifest, found, "choose another results_path")


def _finish(config: MasksConfig, source: MaskSource, output: MaskFolder, planned: int) -> None:
    lines = output.finish()
    compared = visualize.evenly_spaced(lines, source.most_compared)
    statistics = compare_masks(config, source, output.labels(compared), [line.novelty for line in compared])
    write_text(output.folder / STATISTICS, json.dumps(statistics.to_json(), indent=2) + "\n")
    visualize.save(_sheet(source, output, lines), output.folder / SHEET)
    card = write_masks_card(config, output, lines, statistics.summary())
    print("value over the 95 % of random parts of the training masks, for each class; above 1 it is out:")
    for line in statistics.table():
        print(f"  {line}")
    for name, verdict in statistics.verdicts().items():
        if verdict.startswith("out"):
            print(f"  {name or 'all classes'}: {verdict}")
    print(statistics.summary())
    near = sum(line.novelty < config.masks.min_novelty for line in lines)
    if near >= _MANY:
        print(f"note: {near} of {len(lines)} masks are below min_novelty {config.masks.min_novelty:g} all the same")
    print(f"{len(lines)} masks ({planned} asked for)")
    for path in (output.folder / MASKS, output.manifest, output.folder / STATISTICS, output.folder / SHEET):
        print(f"  {path.absolute()}")
    print(f"  {card}")


def _sheet(source: MaskSource, output: MaskFolder, lines: Sequence[MaskLine]) -> Image.Image:
    """Return rows of masks of the dataset, each beside new ones that it is the base of."""
    by_base: dict[str, list[MaskLine]] = {}
    for line in lines:
        by_base.setdefault(line.base.mask, []).append(line)
    numbers = {pair.mask: number for number, pair in enumerate(source.pairs)}
    palette = visualize.class_palette(source.encoding.num_classes)
    tiles: list[list[np.ndarray]] = []
    labels = []
    shown = visualize.evenly_spaced(sorted(by_base), SHEET_ROWS * SHEET_MASKS)
    cells = [[source.read(numbers[base]), *output.labels(by_base[base][:1])] for base in shown]
    for pair in cells:
        labels += pair
        tiles.append([visualize.colorize(_thumbnail(label), palette) for label in pair])
    rows = [list(chain(*tiles[start : start + SHEET_MASKS])) for start in range(0, len(tiles), SHEET_MASKS)]
    titles = ("mask", "new") * min(SHEET_MASKS, len(tiles))
    legend = visualize.legend_of(source.encoding.names, labels)
    return visualize.grid(rows, column_titles=titles, legend=legend, scale=1)


def _thumbnail(label: np.ndarray) -> np.ndarray:
    """Return a label map at about 160 px; of several pixels that become one, a rare class stays."""
    height, width = label.shape
    factor = max(1, round(_TILE / max(height, width)))
    step = -(-max(height, width) // _TILE)
    if step <= 1:
        return label.repeat(factor, axis=0).repeat(factor, axis=1)
    padded = np.pad(label, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, -1, step).transpose(0, 2, 1, 3)
    blocks = blocks.reshape(*blocks.shape[:2], step * step)
    counts = np.bincount(label.ravel())
    rarity = counts[blocks]
    return np.take_along_axis(blocks, rarity.argmin(axis=2)[..., None], axis=2)[..., 0]
