"""Tiny projects of annotation tools, as those tools write them: four images with two classes, drawn here."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.dataset_import import import_dataset

HEIGHT, WIDTH = 24, 32
NAMES = ("part_1", "part_2", "part_3", "part_4")
CLASSES = ("dent", "scratch")
LABEL_STUDIO_BRUSH = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127]
LABEL_STUDIO_BRUSH += [255, 15, 128, 0]
"""What label_studio_sdk.converter.brush.mask2rle (2.1.2) makes of `BRUSH`."""
BRUSH = np.zeros((5, 7), np.uint8)
BRUSH[1:4, 2:6], BRUSH[2, 3] = 255, 0


def write_images(folder: Path, names=NAMES, suffix: str = ".png") -> None:
    """Write noise, each image another."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")


def box(number: int) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of the scratch of an image."""
    return 3 + number, 4, 13 + number, 10


def triangle(number: int) -> list[tuple[float, float]]:
    """Return the corners of the dent of an image, which covers a part of its scratch."""
    return [(8.0, 6.0), (26.0, 6.0 + number), (8.0, 20.0)]


def corners_of(number: int) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box(number)
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def expected(number: int, rule: str = "centers") -> NDArray[np.uint8]:
    """Return the label map of an image, computed pixel by pixel: scratch (2), then dent (1).

    rule: "centers", or "corners", whose pixels and what is between them are covered, the border, too.
    """
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id, corners in ((2, corners_of(number)), (1, triangle(number))):
        if rule == "corners":
            picture = Image.new("1", (WIDTH, HEIGHT))
            ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
            label[np.asarray(picture)] = class_id
        else:
            label[inside(corners)] = class_id
    return label


def inside(corners: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return the pixels whose centers are in a convex polygon of clockwise corners."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    result = np.ones((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        result &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0
    return result


def column_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return run lengths by columns, one pixel after the other."""
    runs, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def coco_content(names=NAMES, suffix: str = ".png") -> dict:
    """Return a COCO file: the scratch is a polygon, the dent run lengths."""
    images, annotations = [], []
    for number, name in enumerate(names):
        images.append({"id": number + 10, "file_name": f"{name}{suffix}", "width": WIDTH, "height": HEIGHT})
        polygon = [number for corner in corners_of(number) for number in corner]
        runs = {"size": [HEIGHT, WIDTH], "counts": column_runs(inside(triangle(number)))}
        for category, segmentation in ((7, [polygon]), (4, runs)):
            own = {"id": len(annotations) + 1, "image_id": number + 10, "category_id": category, "iscrowd": 0}
            annotations.append({**own, "segmentation": segmentation, "bbox": [0, 0, 1, 1], "area": 1})
    categories = [{"id": 7, "name": "scratch", "supercategory": ""}, {"id": 4, "name": "dent", "supercategory": ""}]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path) -> None:
    write_images(root / "images")
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(coco_content()), encoding="utf-8")


def labelme_content(number: int) -> dict:
    shapes = [
        {"label": "scratch", "points": corners_of(number), "shape_type": "polygon", "flags": {}},
        {"label": "dent", "points": triangle(number), "shape_type": "polygon", "flags": {}},
    ]
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{NAMES[number]}.png", **size}


def write_labelme(root: Path) -> None:
    write_images(root)
    for number, name in enumerate(NAMES):
        (root / f"{name}.json").write_text(json.dumps(labelme_content(number)), encoding="utf-8")


def yolo_lines(number: int) -> str:
    lines = []
    for class_id, corners in ((1, corners_of(number)), (0, triangle(number))):
        # A quarter of a pixel inside: readers cut off the fraction.
        shares = [f"{(x + 0.25) / WIDTH:.6f} {(y + 0.25) / HEIGHT:.6f}" for x, y in corners]
        lines.append(f"{class_id} {' '.join(shares)}\n")
    return "".join(lines)


def write_yolo(root: Path) -> None:
    """As Roboflow writes it: a folder for each split, and paths that begin with ../"""
    text = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['dent', 'scratch']\n"
    write_images(root / "train" / "images", NAMES[:3])
    write_images(root / "valid" / "images", NAMES)
    for name in NAMES[:3]:
        (root / "valid" / "images" / f"{name}.png").unlink()
    (root / "data.yaml").write_text(text, encoding="utf-8")
    for number, name in enumerate(NAMES):
        folder = root / ("train" if number < 3 else "valid") / "labels"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.txt").write_text(yolo_lines(number), encoding="utf-8")


def cvat_text() -> str:
    """Return annotations.xml: the scratch is a polygon, the dent a mask in its box."""
    labels = "".join(f"<label><name>{name}</name><color>#f00</color></label>" for name in CLASSES)
    images = []
    for number, name in enumerate(NAMES):
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners_of(number))
        mask = inside(triangle(number))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        place = f'left="{columns[0]}" top="{rows[0]}" width="{part.shape[1]}" height="{part.shape[0]}"'
        rle = ", ".join(map(str, column_runs(part.T)))
        images.append(
            f'<image id="{number}" name="{name}.png" width="{WIDTH}" height="{HEIGHT}">'
            f'<mask label="dent" source="manual" occluded="0" rle="{rle}" {place} z_order="1"></mask>'
            f'<polygon label="scratch" source="manual" occluded="0" points="{points}" z_order="0"></polygon></image>'
        )
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{head}<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>\n"


def write_cvat(root: Path) -> None:
    write_images(root / "images")
    (root / "annotations.xml").write_text(cvat_text(), encoding="utf-8")


def write_voc(root: Path) -> None:
    """As CVAT writes it: palette masks with the colors of labelmap.txt, in another order of indices."""
    write_images(root / "JPEGImages", suffix=".png")
    (root / "SegmentationClass").mkdir()
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    for number, name in enumerate(NAMES):
        mask = Image.fromarray(expected(number))
        mask.putpalette(palette)
        mask.save(root / "SegmentationClass" / f"{name}.png")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "dent:128,0,0::", "scratch:0,128,0::"]
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(NAMES[:3]) + "\n", encoding="utf-8")
    (lists / "val.txt").write_text(NAMES[3] + "\n", encoding="utf-8")


def plain_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Return a brush mask whose values are all listed, none repeated: a head, then blocks of up to 16 values."""
    values = np.repeat(mask.reshape(-1, 1) * 255, 4, axis=1).reshape(-1).tolist()
    bits = f"{len(values):032b}{7:05b}" + f"{3:04b}" * 4
    for start in range(0, len(values), 16):
        block = values[start : start + 16]
        bits += f"000{len(block) - 1:04b}" + "".join(f"{value:08b}" for value in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def label_studio_task(number: int) -> dict:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    points = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in corners_of(number)]
    polygon = {"points": points, "closed": True, "polygonlabels": ["scratch"]}
    brush = {"format": "rle", "rle": plain_brush(inside(triangle(number))), "brushlabels": ["dent"]}
    common = {**size, "from_name": "tag", "to_name": "image", "origin": "manual"}
    result = [
        {**common, "id": "a", "type": "polygonlabels", "value": polygon},
        {**common, "id": "b", "type": "brushlabels", "value": brush},
    ]
    annotation = {"id": 100 + number, "completed_by": 1, "result": result, "was_cancelled": False}
    upload = f"/data/upload/1/0a1b2c3d-{NAMES[number]}.png"
    return {"id": number + 1, "annotations": [annotation], "data": {"image": upload}, "meta": {}}


def write_label_studio(root: Path) -> None:
    write_images(root)
    tasks = [label_studio_task(number) for number in range(len(NAMES))]
    (root / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")


def write_label_studio_png(root: Path) -> None:
    """Its PNG export, with the minimal JSON, which says which task is of which image."""
    write_images(root / "pictures")
    tasks = []
    for number, name in enumerate(NAMES):
        image = {"image": f"/data/local-files/?d=pictures/{name}.png"}
        tasks.append({"id": number + 1, **image, "annotator": 1, "annotation_id": 100 + number})
        for class_id, tag in ((2, "scratch"), (1, "dent")):
            mask = inside(corners_of(number) if class_id == 2 else triangle(number)).astype(np.uint8) * 255
            # The export names the masks by class: dent comes first, so that the scratch would cover it.
            mask = np.where((class_id == 2) & (expected(number) != 2), 0, mask).astype(np.uint8)
            Image.fromarray(mask).save(root / f"task-{number + 1}-annotation-{100 + number}-by-1-tag-{tag}-0.png")
    (root / "min.json").write_text(json.dumps(tasks), encoding="utf-8")


def write_suffixed(root: Path) -> None:
    write_images(root)
    for number, name in enumerate(NAMES):
        Image.fromarray(expected(number)).save(root / f"{name}_mask.png")


WRITTEN = {
    "coco": write_coco,
    "labelme": write_labelme,
    "yolo": write_yolo,
    "cvat": write_cvat,
    "voc": write_voc,
    "label-studio": write_label_studio,
    "label-studio-png": write_label_studio_png,
    "folder": write_suffixed,
}
CORNERS = ("labelme", "yolo")
"""Formats of the rule "corners"."""


def png_text(mask: NDArray[np.bool_]) -> str:
    """Return a mask as PNG in base 64."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def imported(source, target, **values):
    """Import a project with these keys."""
    values = {"source": str(source), "output_dir": str(target), **values}
    return import_dataset(load_config("import", values))


def mask_of(folder: Path, name: str) -> np.ndarray:
    """Return the mask values of an image, of whichever split."""
    (path,) = folder.glob(f"*/masks/{name}.png")
    return np.asarray(Image.open(path))
