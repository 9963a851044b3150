"""Measure how many pixels of a dataset's masks come back wrong from each format that `export` writes.

    python -m scripts.measure.export_errors --data-dir data/magnetic_tile --dataset-mode multi-class

Prints the table of docs/formats.md: wrong pixels, and their share of the pixels that are not background. COCO is read
by pycocotools where it is installed; YOLO by the formula of Ultralytics: shares times size, cut off to whole pixels,
and filled with their border. `import` reads those that it knows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from guided_diffusion.config.load import load_config
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.formats.regions import Polygons
from guided_diffusion.data.formats.run_lengths import mask_of_runs, runs_of_text
from guided_diffusion.pipelines.dataset_export import class_order, export_dataset
from guided_diffusion.pipelines.dataset_import import import_dataset
from guided_diffusion.pipelines.export_source import find_export_source

Labels = dict[str, NDArray[np.int32]]
"""Label maps by the names of their pairs; ignored pixels are -1."""


def read_png(root: Path, pattern: str, end: str = "", *, ignored: int = 255) -> Labels:
    """Return the label maps of PNG files; `end` is cut off their names."""
    found = {path.stem.removesuffix(end): np.asarray(Image.open(path)).astype(np.int32) for path in root.glob(pattern)}
    return {name: np.where(label == ignored, -1, label) for name, label in found.items()}


def read_coco(root: Path) -> Labels:
    """Return the label maps of COCO files, decoded by pycocotools if it is there."""
    try:
        from pycocotools.mask import decode
    except ImportError:

        def decode(segmentation: dict) -> NDArray[np.bool_]:
            size = tuple(segmentation["size"])
            return mask_of_runs(runs_of_text(segmentation["counts"]), size, by_column=True)

    labels: Labels = {}
    for path in root.glob("annotations/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        for image in content["images"]:
            labels[names[image["id"]]] = np.zeros((image["height"], image["width"]), np.int32)
        for each in content["annotations"]:
            mask = np.asarray(decode(each["segmentation"])).astype(bool)
            labels[names[each["image_id"]]][mask] = -1 if each["iscrowd"] else each["category_id"]
    return labels


def read_yolo(root: Path, *, rule: str = "cut off") -> Labels:
    """Return the label maps of YOLO's texts. rule: "cut off" as Ultralytics, "centers" for pixels by their centers."""
    labels: Labels = {}
    for path in root.glob("labels/*/*.txt"):
        (image,) = root.glob(f"images/{path.parent.name}/{path.stem}.*")
        width, height = Image.open(image).size
        picture = Image.new("I", (width, height))
        for line in path.read_text(encoding="utf-8").splitlines():
            class_id, *shares = line.split()
            ring = np.array(shares, float).reshape(-1, 2) * (width, height)
            if rule == "cut off":
                corners = [tuple(corner) for corner in ring.astype(np.int32).tolist()]
                ImageDraw.Draw(picture).polygon(corners, fill=int(class_id) + 1, outline=int(class_id) + 1)
            else:
                painted = Polygons((ring,), "centers").paint((height, width))
                bits = Image.fromarray(painted.bits)
                picture.paste(int(class_id) + 1, (painted.left, painted.top), bits)
        labels[path.stem] = np.asarray(picture).astype(np.int32)
    return labels


def read_imported(root: Path) -> Labels:
    """Return the label maps that `import` makes of an export."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "data"
        import_dataset(load_config("import", {"source": str(root), "output_dir": str(target)}))
        return read_png(target, "*/masks/*.png")


def readers(classes: int) -> list[tuple[str, str, Callable[[Path], Labels]]]:
    """Return (format, who reads it, how) of all rows. classes: number of them."""
    return [
        ("coco", "pycocotools", read_coco),
        ("coco", "import", read_imported),
        ("yolo", "Ultralytics (formula)", read_yolo),
        ("yolo", "import", read_imported),
        ("yolo", "a reader of pixel centers", lambda root: read_yolo(root, rule="centers")),
        ("voc", "indices", lambda root: read_png(root, "SegmentationClass/*.png")),
        ("voc", "import", read_imported),
        ("nnunet", "labels", lambda root: read_png(root, "*/labels*/*.png", ignored=classes)),
        ("hf", "masks", lambda root: read_png(root, "*/masks/*.png")),
        ("cityscapes", "labelIds", lambda root: read_png(root, "gtFine/*/*/*_labelIds.png", "_gtFine_labelIds")),
        ("datumaro", "masks", lambda root: read_png(root, "*/masks/*.png")),
    ]


def measure(data_dir: str, dataset_mode: str) -> list[tuple[str, str, int, int]]:
    """Return (format, who reads it, wrong pixels, pixels that are not background) of each row."""
    values = {"data_dir": data_dir, "dataset_mode": dataset_mode}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        roots: dict[str, Path] = {}
        truth: Labels = {}
        config = load_config("export", {**values, "format": "coco", "export_path": folder + "/x"})
        source = find_export_source(config.source)
        names, lookup = class_order(source.encoding, source.background)
        for kind, reader, read in readers(len(names)):
            if kind not in roots:
                roots[kind] = Path(folder, kind)
                export_dataset(load_config("export", {**values, "format": kind, "export_path": str(roots[kind])}))
            if not truth:
                record = json.loads((roots[kind] / "export.json").read_text(encoding="utf-8"))
                entries = [entry for split in source.splits for entry in split.entries]
                for pair, entry in zip(record["pairs"], entries, strict=True):
                    label = read_mask(entry.mask, source.encoding, upright=entry.upright).numpy()
                    truth[pair["name"]] = lookup[label]
            found = read(roots[kind])
            assert found.keys() == truth.keys(), f"{kind}: other names"
            wrong = sum(int((found[name] != label).sum()) for name, label in truth.items())
            rows.append((kind, reader, wrong, sum(int((label != 0).sum()) for label in truth.values())))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset-mode", default="multi-class")
    arguments = parser.parse_args()
    print("| format | read by | wrong pixels | share |\n|---|---|---|---|")
    for kind, reader, wrong, area in measure(arguments.data_dir, arguments.dataset_mode):
        print(f"| `{kind}` | {reader} | {wrong} | {100 * wrong / area:.2f} % |")


if __name__ == "__main__":
    main()
