"""The files of a source that is imported; what annotations name is looked up among them, so that nothing leaves it."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from guided_diffusion.data.boxes.json_records import path_problem, plain_path
from guided_diffusion.data.files import list_files, read_bytes
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.strict_json import parse_json

_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_MOST_READ = 1 << 31
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2")


def split_of(path: str) -> str:
    """Return "train", "val" or "test" where the words of a path say it, the last part first; "" for other paths."""
    for part in reversed(path.split("/")):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return ""


class SourceFiles:
    """The files below a folder, or beside one annotation file, and those of a separate folder of images.

    `files` and `pictures` are full paths by their path relative to the folder, with forward slashes.
    """

    def __init__(self, source: str | Path, image_dir: str | Path = ""):
        """List the files; DataError where there are none, or the paths are not what they should be."""
        source = Path(os.path.abspath(source))
        self.only = source.name if source.is_file() else ""
        """The one annotation file that was given, "" for a folder."""
        self.root = str(source.parent if self.only else source)
        if not source.exists():
            raise DataError.of(source, "does not exist", "give the folder or the file that the annotation tool wrote")
        self.files = dict(list_files(self.root))
        pictures = self.files
        self.given_images = bool(image_dir)
        """Whether the images are in a folder that the user has named."""
        if image_dir:
            self.image_root = os.path.abspath(image_dir)
            if not os.path.isdir(self.image_root):
                raise DataError.of(image_dir, "is no folder", "set image_dir to the folder of the images")
            pictures = dict(list_files(self.image_root))
        else:
            self.image_root = self.root
        self.pictures = {normal_name(name): path for name, path in pictures.items() if name.lower().endswith(_PICTURES)}
        self._json: dict[str, Any] = {}
        self.by_name_alone: dict[str, str] = {}
        """Images that `find` found in another folder than annotations say, by what these call them."""

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        tails: dict[str, list[str]] = {}
        for name in self.pictures:
            tails.setdefault(name.rpartition("/")[2].lower(), []).append(name)
        return tails

    @cached_property
    def by_normal_name(self) -> dict[str, str]:
        """The names in `files` by their normal names, as `pictures` has them."""
        return {normal_name(name): name for name in self.files}

    def named(self, *endings: str) -> list[str]:
        """Return the names of the annotation files with such endings, or the given one."""
        names = [self.only] if self.only else self.files
        return [name for name in names if name.lower().endswith(endings)]

    def json(self, name: str) -> Any:
        """Return the content of a JSON file, which is kept; DataError with a line for each mistake."""
        if name not in self._json:
            value, mistakes = parse_json(self.content(name))
            if mistakes:
                raise DataError([f"{self.files[name]}: {found}; {remedy}" for found, remedy in mistakes])
            self._json[name] = value
        return self._json[name]

    def fitting(self, fits: Callable[[Any], bool]) -> list[str]:
        """Return the names of the JSON files whose content fits; DataError with the mistakes of all that are none."""
        names: list[str] = []
        lines: list[str] = []
        for name in self.named(".json"):
            try:
                names += [name] if fits(self.json(name)) else []
            except DataError as error:
                lines += error.messages
        if lines:
            raise DataError(lines)
        return names

    def content(self, name: str) -> bytes:
        """Return the bytes of a file; DataError where it cannot be read."""
        path = self.files[name]
        if os.path.getsize(path) > _MOST_READ:
            raise DataError.of(path, "is larger than 2 GB", "give the annotations in several files")
        return read_bytes(path)

    def find(self, name: str, near: str = "", split: str = "", *, beside: bool = False, elsewhere: bool = True) -> str:
        """Return the name in `pictures` of the image that annotations call `name`; DataError where there is none.

        Places: `near`, the folder of the annotations (`beside`: or that path with images for a part of it), images/ in
        it, the source, then (`elsewhere`) wherever one path ends like it, of several the one of the `split`.
        """
        wanted, near = normal_name(posixpath.normpath(plain_path(name))), normal_name(near)
        if "/" in near and wanted.startswith("../"):
            # LabelMe writes ../images/a.jpg where its files have a folder of their own.
            wanted = posixpath.normpath(posixpath.join(near, wanted))
        elif near and wanted.startswith("../"):
            wanted = wanted.removeprefix("../")
        if wrong := path_problem(wanted):
            if not self.given_images:
                remedy = "set image_dir to the folder of the images, where they are looked up by name"
                raise DataError.of(self._said(near), f"image {wrong}", remedy)
            wanted = wanted.rpartition("/")[2]
        parts = near.split("/") if beside and near else []
        mirrored = ("/".join((*parts[:index], "images", *parts[index + 1 :])) for index in range(len(parts)))
        usual = dict.fromkeys((near, _join(near, "images"), *mirrored, "", "images"))
        for folder in usual:
            if (candidate := _join(folder, wanted)) in self.pictures:
                return candidate
        alike = self._by_tail.get(wanted.rpartition("/")[2].lower(), [])
        if not elsewhere:
            alike = [path for path in alike if folder_of(path) in usual]
        for tail in dict.fromkeys((wanted, wanted.rpartition("/")[2])):
            found = [path for path in alike if ("/" + path.lower()).endswith("/" + tail.lower())]
            if len(found) > 1 and split:
                found = [path for path in found if split_of(path) == split] or found
            if len(found) == 1:
                other = tail != wanted or (beside and not self.given_images)
                if other and folder_of(found[0]) not in usual:
                    self.by_name_alone[_join(near, wanted) if beside else wanted] = found[0]
                return found[0]
            if found:
                line = f"image {name!r} may be {found[0]} or {found[1]}"
                raise DataError.of(self._said(near), line, "write it with its folder, or set image_dir")
        remedy = f"put it below {self.image_root}, or set image_dir to the folder of the images"
        raise DataError.of(self._said(near), f"image {name!r} is not there", remedy)

    def _said(self, near: str) -> str:
        return os.path.join(self.root, self.only or near).rstrip("/")


def normal_name(name: str) -> str:
    """Return a name in the form by which names are compared: macOS stores "é" as two code points."""
    return unicodedata.normalize("NFC", name)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def folder_of(name: str) -> str:
    """Return the folder of a relative path, "" for none."""
    return name.rpartition("/")[0]


def first_names(names: Iterable[str], most: int = 4) -> str:
    """Return the first names, and that there are more."""
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
