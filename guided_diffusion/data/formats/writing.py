"""The table of writers."""

from __future__ import annotations

from guided_diffusion.data.formats.exported import DatasetWriter
from guided_diffusion.data.formats.writers.cityscapes import CityscapesWriter
from guided_diffusion.data.formats.writers.coco import CocoWriter
from guided_diffusion.data.formats.writers.datumaro import DatumaroWriter
from guided_diffusion.data.formats.writers.hf import HfWriter
from guided_diffusion.data.formats.writers.nnunet import NnunetWriter
from guided_diffusion.data.formats.writers.voc import VocWriter
from guided_diffusion.data.formats.writers.yolo import YoloWriter

WRITERS: dict[str, type[DatasetWriter]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "voc": VocWriter,
    "nnunet": NnunetWriter,
    "hf": HfWriter,
    "cityscapes": CityscapesWriter,
    "datumaro": DatumaroWriter,
}
