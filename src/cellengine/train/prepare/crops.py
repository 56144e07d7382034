"""Crops for a classifier, cut out of pictures around cells whose class is known: boxes, or labels of label images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cellengine.errors import InputError, UsageError
from cellengine.io.boxes import IMAGE_COLUMNS, SIDES, Box
from cellengine.io.lists import Reference, first_column, read_pairs, read_rows
from cellengine.io.splits import draw_split
from cellengine.ops import measure_objects
from cellengine.train.prepare.cutting import crop_stems, leaves_picture, write_crop_lists, write_crops
from cellengine.train.prepare.frame import Control, Defect, Finished, Found, Job, Outcome, digest, run_jobs
from cellengine.train.prepare.pictures import SplitOptions, read_picture
from cellengine.train.prepare.report import DataReport, count_by, summary_lines, write_report

CLASS_COLUMNS = ("class", "class_name", "label")
NUMBER_COLUMN = "label"
"""of a table without boxes: which cell of the label image"""


@dataclass(frozen=True, slots=True)
class CropOptions:
    """What is cut out."""

    split: SplitOptions = field(default_factory=SplitOptions)
    sizes_px: tuple[int, ...] = (48,)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table."""

    line: int
    name: str
    """class"""
    split: str
    box: Box | None
    """None where `number` says which cell of the label image is meant"""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one picture."""

    image: Path
    label: Reference | None
    cells: tuple[Cell, ...]
    split: str
    """as the list of pictures says, or empty"""
    group: str


def prepare_crops(
    table: Path,
    output: Path,
    options: CropOptions,
    *,
    pictures: Path | None = None,
    control: Control | None = None,
) -> Finished:
    """Write crops_<size>/ and a list a size to `output`; see `run_jobs` for how it resumes.

    Args:
        table: a CSV with one cell a row: the picture (image, file, frame or filename), the class, and either a box
            (xmin, ymin, xmax, ymax; the class in class, class_name or label) or `label`, the cell's number in the label
            image of the picture, beside `class`
        pictures: a CSV that names pictures with their label images, and optionally split and group; needed for numbers

    Raises UsageError and InputError for tables that cannot be used.
    """
    found, defects = read_cells(table, pictures)
    jobs = [
        Job(
            name,
            (cells.image, *((cells.label.path,) if cells.label else ())),
            partial(prepare_picture, name, stem, cells, output, options),
            given=digest(stem, cells.cells),
        )
        for stem, (name, cells) in zip(crop_stems(list(found)), found.items(), strict=True)
    ]
    identity = {
        "command": "prepare crops",
        "source": str(table.resolve()),
        "pictures": str(pictures.resolve()) if pictures else None,
        **asdict(options),
    }
    all_found = Found(tuple(jobs), tuple(defects), (table, *((pictures,) if pictures else ())))
    summarise = partial(_summarise, output, options, identity, found)
    return run_jobs(output, identity, all_found, summarise, control=control)


def read_cells(table: Path, pictures: Path | None) -> tuple[dict[str, Cells], list[Defect]]:
    """The cells of every picture that exists, and every row that cannot be used."""
    rows = _rows(table)
    picture_column = first_column(table, rows[0], IMAGE_COLUMNS, "the pictures")
    has_boxes = set(SIDES) <= set(rows[0])
    if not has_boxes and (pictures is None or NUMBER_COLUMN not in rows[0]):
        raise UsageError(
            f"{table} has no boxes ({', '.join(SIDES)}); expected those, or the columns {NUMBER_COLUMN} and class "
            "together with --pictures, a list of pictures with label images."
        )
    candidates = CLASS_COLUMNS if has_boxes else CLASS_COLUMNS[:2]
    class_column = first_column(table, rows[0], candidates, "the classes")
    listed = _listed(pictures)
    by: dict[str, list[Cell]] = defaultdict(list)
    defects: list[Defect] = []
    seen: dict[tuple[Any, ...], Cell] = {}
    for line, row in enumerate(rows, 2):
        cell = _cell(line, row, class_column, has_boxes)
        where = f"{table.name}, line {line}"
        if isinstance(cell, str):
            defects.append(Defect(where, cell))
            continue
        key = (row[picture_column], cell.box and (cell.box.y0, cell.box.x0, cell.box.y1, cell.box.x1), cell.number)
        twin = seen.setdefault(key, cell)
        if twin is not cell:
            said = "again" if twin.name == cell.name else f"as {cell.name}, in line {twin.line} as {twin.name}"
            defects.append(Defect(where, f"the cell is listed {said}"))
            continue
        by[row[picture_column]].append(cell)
    found = {}
    for picture, cells in by.items():
        entry = _entry(picture, cells, table, listed, pictures)
        if isinstance(entry, str):
            defects.append(Defect(picture, f"{entry}; its {len(cells)} cells are lost"))
        else:
            found[picture] = entry
            if len({cell.split for cell in cells}) > 1:
                splits = " and ".join(sorted({cell.split for cell in cells}))
                defects.append(Defect(picture, f"its cells are in {splits}", f"all in {entry.split or cells[0].split}"))
    return found, defects


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise UsageError(f"{table} does not exist; expected a CSV with one cell a row.")
    return read_rows(table, {})


def _cell(line: int, row: Mapping[str, str], class_column: str, has_boxes: bool) -> Cell | str:
    """The cell of a row, or what is wrong with it."""
    if not row[class_column].strip():
        return "the cell has no class"
    try:
        if not has_boxes:
            number = int(row[NUMBER_COLUMN])
            return Cell(line, row[class_column], row.get("split", ""), None, number)
        x0, y0, x1, y1 = (round(float(row[side])) for side in SIDES)
    except (ValueError, OverflowError):
        return "a box or number is missing or no number"
    if x1 <= x0 or y1 <= y0:
        return f"the box {x0}, {y0}, {x1}, {y1} is empty; expected xmin < xmax and ymin < ymax"
    return Cell(line, row[class_column], row.get("split", ""), Box(y0, x0, y1, x1, row[class_column]))


def _listed(pictures: Path | None) -> dict[str, tuple[Path, Reference | None, Mapping[str, str]]]:
    """Picture -> file, label image and row of the list of pictures; by the name that the list gives."""
    if pictures is None:
        return {}
    if not pictures.is_file():
        raise UsageError(f"{pictures} does not exist; expected a CSV list of pictures.")
    rows = read_rows(pictures, {})
    column = first_column(pictures, rows[0], IMAGE_COLUMNS, "the pictures")
    has_labels = {"label", "mask"} & set(rows[0])
    labels = [pair.label for pair in read_pairs(pictures)] if has_labels else [None] * len(rows)
    return {row[column]: (pictures.parent / row[column], label, row) for row, label in zip(rows, labels, strict=True)}


def _entry(
    picture: str,
    cells: Sequence[Cell],
    table: Path,
    listed: Mapping[str, tuple[Path, Reference | None, Mapping[str, str]]],
    pictures: Path | None,
) -> Cells | str:
    """Where a picture is and what is to be cut out of it, or why nothing can be."""
    if listed and picture not in listed:
        return f"the picture is not in {pictures.name}" if pictures else "the picture is not listed"
    path, label, row = listed.get(picture, (table.parent / picture, None, {}))
    if not path.is_file():
        return "the picture does not exist"
    if any(cell.box is None for cell in cells) and (label is None or not label.path.exists()):
        return "the picture has no label image"
    split = row.get("split", "") or cells[0].split
    return Cells(path, label, tuple(cells), split, row.get("group", "") or picture)


def prepare_picture(name: str, stem: str, found: Cells, output: Path, options: CropOptions) -> Outcome:
    """Cut all crops out of one picture; `stem` begins their names."""
    image = read_picture(found.image)
    shape = image.shape[1:]
    boxes = _boxes(found, shape) if found.label else {}
    rows: list[dict[str, Any]] = []
    files: list[str] = []
    defects = []
    for number, cell in enumerate(found.cells):
        box = cell.box or boxes.get(cell.number)
        if box is None:
            defects.append(Defect(name, f"line {cell.line}: the label image has no cell {cell.number}"))
            continue
        if not (0 <= box.centre[0] < shape[0] and 0 <= box.centre[1] < shape[1]):
            defects.append(
                Defect(name, f"line {cell.line}: the box lies outside the picture of {shape[0]} x {shape[1]} px")
            )
            continue
        crops = write_crops(output, f"{stem}_{number}", image, box.centre, options.sizes_px)
        files += crops.values()
        longest = max(box.y1 - box.y0, box.x1 - box.x0)
        mirrored = leaves_picture(box.centre, max(options.sizes_px), shape)
        rows.append({"files": crops, "class": cell.name, "y": box.centre[0], "x": box.centre[1],
                     "longest_px": longest, "mirrored": mirrored})  # fmt: skip
    return Outcome(tuple(files), {"rows": rows}, tuple(defects))


def _boxes(found: Cells, shape: tuple[int, ...]) -> dict[int, Box]:
    """Box by number of every cell of the label image. Raises InputError when it does not fit the picture."""
    if found.label is None:
        return {}
    labels = read_picture(found.label.path)[0]
    if labels.shape != shape:
        raise InputError(f"the labels {found.label.path.name} are {labels.shape}, the picture is {shape}")
    table = measure_objects(labels)
    return {
        n: Box(y0, x0, y1, x1) for n, (y0, x0, y1, x1) in zip(table.label.tolist(), table.bbox.tolist(), strict=True)
    }


def _summarise(
    output: Path,
    options: CropOptions,
    identity: Mapping[str, Any],
    found: Mapping[str, Cells],
    outcomes: Mapping[str, Outcome],
    defects: Sequence[Defect],
) -> list[str]:
    names = [name for name, outcome in outcomes.items() for _ in outcome.facts["rows"]]
    crops = [row for outcome in outcomes.values() for row in outcome.facts["rows"]]
    groups = [found[name].group for name in names]
    splits = [found[name].split for name in names]
    if not all(splits):
        splits = draw_split(groups, options.split.shares, options.split.seed, [row["class"] for row in crops])
    rows = [
        {"files": c["files"], "class": c["class"], "split": s, "group": g, "picture": n, "y": c["y"], "x": c["x"]}
        for c, s, g, n in zip(crops, splits, groups, names, strict=True)
    ]
    lists = write_crop_lists(output, rows, options.sizes_px)
    numbers: dict[str, Any] = {"pictures": len(outcomes), "crops_of_each_size": len(rows)}
    for size in options.sizes_px:
        numbers[f"cells_larger_than_{size}_px"] = sum(row["longest_px"] > size for row in crops)
    numbers["mirrored_at_the_border"] = sum(row["mirrored"] for row in crops)
    tables = {"By split and class": count_by(rows, "split", "class")}
    write_report(output, DataReport("Crops of cells", identity, numbers, defects, tables))
    first, _ = summary_lines(output, rows, defects)
    where = ", ".join(str(output / name) for name in lists)
    return [first, f"Lists for training and evaluation: {where}; what to know of the data: {output / 'report.html'}"]
