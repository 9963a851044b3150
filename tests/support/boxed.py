"""Datasets of boxes made of datasets of masks: COCO JSON, VoTT JSON (whole and one file an asset) and VoTT CSV."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guided_diffusion.data.components import find_components

NAMES = {1: "lemon", 2: "blemish", 3: "mould", 4: "gangrene"}
"""Of the mask values of the lemons."""
KINDS = ("coco", "vott", "vott assets", "vott csv")

Boxes = list[tuple[str, tuple[int, int, int, int]]]
"""Name and x0, y0, x1, y1 of each object of a picture."""
Pictures = dict[str, tuple[tuple[int, int], Boxes]]
"""File name -> (height, width), objects."""


def objects_of_masks(folder: Path, names: Mapping[int, str] = NAMES) -> Pictures:
    """Return what boxes the components of the masks in a split's folder have."""
    found: Pictures = {}
    for path in sorted((folder / "images").iterdir()):
        label = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        parts = find_components(label, list(names))
        boxes = [(part.box.left, part.box.top, part.box.right, part.box.bottom) for part in parts]
        found[path.name] = label.shape, [(names[part.class_id], box) for part, box in zip(parts, boxes, strict=True)]
    return found


def boxed_copy(source: Path, folder: Path, kind: str = "coco", names: Mapping[int, str] = NAMES) -> Path:
    """Write the images of a dataset of masks with boxes in their place, and return the folder."""
    for split in ("train", "test"):
        if (source / split).is_dir():
            shutil.copytree(source / split / "images", folder / split / "images")
            WRITERS[kind](folder / split, objects_of_masks(source / split, names), list(names.values()))
    return folder


def coco_of(pictures: Pictures, names: list[str]) -> dict[str, Any]:
    """Return the content of a COCO file; category ids have gaps."""
    ids = {name: 10 * index + 3 for index, name in enumerate(names)}
    images, annotations = [], []
    for number, (file_name, ((height, width), boxes)) in enumerate(pictures.items()):
        images.append({"id": 7 * number, "file_name": file_name, "height": height, "width": width})
        for name, (x0, y0, x1, y1) in boxes:
            entry = {"id": len(annotations) + 1, "image_id": 7 * number, "category_id": ids[name], "iscrowd": 0}
            annotations.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": []})
    categories = [{"id": index, "name": name} for name, index in ids.items()]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def vott_assets_of(pictures: Pictures) -> dict[str, Any]:
    """Return the assets of a VoTT project by their ids."""
    assets = {}
    for number, (file_name, ((height, width), boxes)) in enumerate(pictures.items()):
        key = f"{number:032x}"
        path = f"file:C:/Users/A%20B/pictures/{file_name}"
        asset = {"format": "png", "id": key, "name": file_name, "path": path, "type": 1}
        asset |= {"size": {"width": width, "height": height}, "state": 2 if boxes else 1}
        regions = [
            {
                "id": f"r{number}{index}",
                "type": "RECTANGLE",
                "tags": [name],
                "boundingBox": {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0},
                "points": [{"x": x, "y": y} for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))],
            }
            for index, (name, (x0, y0, x1, y1)) in enumerate(boxes)
        ]
        assets[key] = {"asset": asset, "regions": regions, "version": "2.2.0"}
    return assets


def vott_of(pictures: Pictures, names: list[str]) -> dict[str, Any]:
    """Return the content of a VoTT export."""
    tags = [{"name": name, "color": "#5db300"} for name in names]
    return {"name": "lemons", "version": "2.2.0", "tags": tags, "assets": vott_assets_of(pictures)}


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Edit the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_coco(folder: Path, pictures: Pictures, names: list[str]) -> None:
    (folder / "annotations.json").write_text(json.dumps(coco_of(pictures, names)), encoding="utf-8")


def _write_vott(folder: Path, pictures: Pictures, names: list[str]) -> None:
    (folder / "lemons-export.json").write_text(json.dumps(vott_of(pictures, names)), encoding="utf-8")


def _write_vott_assets(folder: Path, pictures: Pictures, names: list[str]) -> None:
    for key, content in vott_assets_of(pictures).items():
        (folder / f"{key}-asset.json").write_text(json.dumps(content), encoding="utf-8")


def _write_vott_csv(folder: Path, pictures: Pictures, names: list[str]) -> None:
    with (folder / "lemons-export.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["image", "xmin", "ymin", "xmax", "ymax", "label"])
        for file_name, (_, boxes) in pictures.items():
            writer.writerows([file_name, *map(float, box), name] for name, box in boxes)


WRITERS = {"coco": _write_coco, "vott": _write_vott, "vott assets": _write_vott_assets, "vott csv": _write_vott_csv}


GRAY: Pictures = {
    "a.png": ((40, 60), [("spot", (5, 6, 20, 30)), ("scratch", (30, 2, 58, 9))]),
    "b.png": ((50, 50), [("scratch", (0, 10, 50, 14))]),
    "c.png": ((64, 33), []),
    "sub d.png": ((20, 80), [("spot", (2, 2, 9, 12)), ("spot", (40, 5, 52, 20)), ("dent", (60, 0, 80, 20))]),
}
"""Gray pictures of several sizes with objects."""
GRAY_NAMES = ["scratch", "spot", "dent"]


def gray_set(folder: Path, kind: str = "coco", split: str = "train") -> Path:
    """Write the pictures of `GRAY`, their boxes brighter than the rest, with annotations, and return the folder."""
    images = folder / split / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    for name, ((height, width), boxes) in GRAY.items():
        pixels = rng.integers(40, 120, (height, width), np.uint8)
        for _, (x0, y0, x1, y1) in boxes:
            pixels[y0:y1, x0:x1] += 100
        Image.fromarray(pixels).save(images / name)
    WRITERS[kind](folder / split, GRAY, GRAY_NAMES)
    return folder


def write_published(folder: Path) -> Path:
    """Write the pictures and annotations of the recorded layouts as COCO unpacks, and return the folder."""
    golden = Path(__file__).parents[1] / "golden" / "stay_layouts_coco.json"
    files = json.loads(golden.read_text(encoding="utf-8"))["files"]
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    for name, content in files.items():
        (folder / "annotations" / f"{name}_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    rng = np.random.default_rng(0)
    for image in files["instances"]["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(folder / "train2017" / image["file_name"])
    return folder
