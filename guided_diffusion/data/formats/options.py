"""The names of the formats that datasets are read from and written to."""

from __future__ import annotations

from typing import Literal

ImportFormat = Literal["auto", "coco", "labelme", "yolo", "cvat", "voc", "label-studio", "label-studio-png", "folder"]
ExportFormat = Literal["coco", "yolo", "voc", "nnunet", "hf", "cityscapes", "datumaro"]
Crowds = Literal["keep", "drop", "ignore"]
