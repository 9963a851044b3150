"""VoTT CSV exports: a row for each region and tag, `image,xmin,ymin,xmax,ymax,label`, corners in pixels.

Pictures without regions are not in them, and neither are sizes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from urllib.parse import unquote

from guided_diffusion.data.boxes.json_records import entry_problem, file_problem, path_problem, plain_path
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage, Corners, ObjectBox
from guided_diffusion.data.files import read_bytes
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import DataError

FORM = "VoTT CSV, xmin, ymin, xmax, ymax in pixels"
COLUMNS = ("image", "xmin", "ymin", "xmax", "ymax", "label")
_HEADER = ",".join(COLUMNS)

_Row = tuple[int, str, Corners, str]
"""Line, picture, box, class."""


def read_vott_csv(path: str) -> AnnotationFile:
    """Return the pictures and objects of a CSV export; classes in alphabetical order."""
    problems: list[Problem] = []
    rows = _read_rows(path, problems)
    names = tuple(sorted({label for *_, label in rows}))
    class_ids = {name: index for index, name in enumerate(names)}
    by_name: dict[str, list[ObjectBox]] = {}
    for line, name, corners, label in rows:
        by_name.setdefault(name, []).append(ObjectBox(class_ids[label], corners, f"line {line}"))
    images = [BoxedImage(name, tuple(objects)) for name, objects in by_name.items()]
    return AnnotationFile(path, FORM, names, tuple(images), tuple(problems))


def _read_rows(path: str, problems: list[Problem]) -> list[_Row]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except DataError as error:
        problems.append(Problem.of(error, ProblemKind.ANNOTATION_FILE))
        return []
    except UnicodeDecodeError:
        problems.append(file_problem(path, "not UTF-8 text", "save it as CSV in UTF-8"))
        return []
    lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip().strip('"').lower() for name in next(lines, [])]
        if missing := [name for name in COLUMNS if name not in header]:
            problems.append(_header_problem(path, header, missing))
            return []
        rows = list(_rows(path, header, lines, problems))
    except csv.Error as error:
        problems.append(file_problem(path, f"no CSV from line {lines.line_num} on ({error})", "export it again"))
        return []
    if not rows and not problems:
        remedy = "VoTT is known to write such files: export again, or export VoTT JSON"
        problems.append(file_problem(path, "has a header and no boxes", remedy))
    return rows


def _header_problem(path: str, header: list[str], missing: list[str]) -> Problem:
    remedy = f"write {_HEADER} as the first line"
    if ";" in "".join(header):
        return file_problem(path, "has semicolons between its columns", "save it with commas")
    if len(header) >= len(COLUMNS) and sum(_is_number(cell) for cell in header) >= 4:
        return file_problem(path, f"has no header, the first line is {','.join(header)[:60]!r}", remedy)
    return file_problem(path, f"the header has no {', '.join(missing)}", remedy)


def _rows(path: str, header: list[str], lines: Iterator[list[str]], problems: list[Problem]) -> Iterator[_Row]:
    positions = [header.index(name) for name in COLUMNS]
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        entry = f"line {lines.line_num}"
        if len(cells) != len(header):
            remedy = "write decimal points, not commas, and quote names that have commas"
            problems.append(entry_problem(path, entry, f"{len(cells)} cells, but {len(header)} columns", remedy))
            continue
        name, *numbers, label = (cells[position].strip().strip("\"'").strip() for position in positions)
        wrong = [number for number in numbers if not _is_number(number)]
        if wrong:
            remedy = "write xmin, ymin, xmax and ymax as numbers in pixels"
            problems.append(entry_problem(path, entry, f"{wrong[0]!r} is no number", remedy))
        elif not label:
            problems.append(entry_problem(path, entry, "has no label", "name its class, or remove the line"))
        elif not name:
            problems.append(entry_problem(path, entry, "has no image", "name its picture, or remove the line"))
        elif found := path_problem(name) or path_problem(unquote(name)):
            problems.append(entry_problem(path, entry, f"image {found}", "write the name of the picture alone"))
        else:
            x0, y0, x1, y1 = map(float, numbers)
            yield lines.line_num, plain_path(name), (x0, y0, x1, y1), label


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
