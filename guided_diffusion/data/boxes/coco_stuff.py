"""The layouts of COCO-Stuff as published for layout to image (LostGAN, Sun and Wu 2019; Sg2Im, Johnson et al. 2018)."""

from __future__ import annotations

from collections import Counter

from guided_diffusion.data.boxes.coco import CocoImage, parse_coco, size_of
from guided_diffusion.data.boxes.json_records import file_problem, path_problem, plain_path
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage, ObjectBox

FORM = "COCO-Stuff JSON, bbox = [x, y, width, height] in pixels"
NUM_CLASSES = 184
"""A class is the id of its category, 1 to 182 and 183 "other"; 0 stands for the image as a whole."""
LEAST_SHARE = 0.02
"""An object counts if its box has more than this share of the image."""
FEWEST, MOST = 3, 8
"""Objects of an image; images with fewer or more are left out."""
_OTHER = "other"


def read_coco_stuff(instances: str, stuff: str) -> AnnotationFile:
    """Return the images of `instances` that `stuff` has annotations of, too, with their objects: things, then stuff."""
    things, backgrounds = parse_coco(instances), parse_coco(stuff)
    problems = [*things.problems, *backgrounds.problems]
    names = [f"class {index}" for index in range(NUM_CLASSES)]
    names[0] = "background"
    for path, records in ((instances, things), (stuff, backgrounds)):
        for category in records.categories:
            if 0 < category.id < NUM_CLASSES:
                names[category.id] = category.name
            else:
                remedy = "use the ids of COCO-Stuff, or dataset_mode boxes, which takes any"
                problems.append(file_problem(path, f"category id {category.id} is not 1 to {NUM_CLASSES - 1}", remedy))
    images = {image.id: image for image in things.images if not path_problem(image.file_name)}
    kept: dict[int, list[ObjectBox]] = {image_id: [] for image_id in images}
    left_out: Counter[str] = Counter()
    for path, records in ((instances, things), (stuff, backgrounds)):
        for each in records.annotations:
            image = images.get(each.image_id)
            if image is None or not 0 < each.category_id < NUM_CLASSES:
                continue
            if each.iscrowd or names[each.category_id] == _OTHER:
                left_out[f"crowds and objects of the class {_OTHER!r}"] += 1
            elif not _counts(each.bbox, image):
                left_out[f"objects of at most {LEAST_SHARE} of the image"] += 1
            else:
                entry = f"annotation {each.id} of {path.rpartition('/')[2]}"
                kept[each.image_id].append(ObjectBox(each.category_id, each.corners, entry))
    with_stuff = {each.image_id for each in backgrounds.annotations}
    chosen = []
    for image_id, objects in kept.items():
        if image_id in with_stuff and FEWEST <= len(objects) <= MOST:
            image = images[image_id]
            chosen.append(BoxedImage(plain_path(image.file_name), tuple(objects), size_of(image)))
        else:
            left_out[f"images without stuff, or without {FEWEST} to {MOST} objects"] += 1
    return AnnotationFile(instances, FORM, tuple(names), tuple(chosen), tuple(problems), left_out)


def _counts(bbox: list[float], image: CocoImage) -> bool:
    size = size_of(image)
    return size is None or (bbox[2] * bbox[3]) / (size[1] * size[0]) > LEAST_SHARE
