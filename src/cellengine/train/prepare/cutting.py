"""Square crops around cells, and the lists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellengine.errors import InputError
from cellengine.io.crops import window
from cellengine.train.prepare.frame import unique_names
from cellengine.train.prepare.pictures import picture_suffix, read_picture, write_picture
from cellengine.train.prepare.report import OVERVIEW, write_list
from cellengine.train.prepare.sheet import draw_labelled, write_sheet

Array = NDArray[Any]


def leaves_picture(centre: tuple[int, int], size_px: int, shape: Sequence[int]) -> bool:
    """Whether a crop around the pixel `centre` (y, x) reaches over the border of a picture of `shape`."""
    starts = [c - size_px // 2 for c in centre]
    return any(a < 0 or a + size_px > n for a, n in zip(starts, shape, strict=True))


def crop_stems(pictures: Sequence[str]) -> list[str]:
    """What the crops of each picture are called: its path without suffix and without folders, all different."""
    paths = [Path(name).with_suffix("") for name in pictures]
    return unique_names("_".join(part for part in path.parts if part not in ("..", "/")) for path in paths)


def write_crops(
    output: Path, name: str, image: Array, centre: tuple[int, int], sizes_px: Sequence[int]
) -> dict[str, str]:
    """Write one crop a size, `crops_<size>/<name>`, mirrored where it leaves the picture; the files by size."""
    files = {str(size): f"crops_{size}/{name}{picture_suffix(image)}" for size in sizes_px}
    for size in sizes_px:
        write_picture(output / files[str(size)], window(image, centre, (size, size)))
    return files


def write_crop_lists(output: Path, rows: Sequence[Mapping[str, Any]], sizes_px: Sequence[int]) -> list[str]:
    """One list a size and the overview; the names of the lists.

    The columns are those of `rows`, of which `files` becomes `image`. The class comes twice: training reads `label`,
    evaluation `class`. Raises InputError when there is no row.
    """
    if not rows:
        raise InputError("No cell can be cut out of the pictures: the table and the pictures do not fit each other.")
    names = [f"list_{size}.csv" for size in sizes_px]
    for size, name in zip(sizes_px, names, strict=True):
        write_list(
            output,
            [
                {
                    "image": row["files"][str(size)],
                    "label": row["class"],
                    **{k: v for k, v in row.items() if k != "files"},
                }
                for row in rows
            ],
            name,
        )
    largest = str(max(sizes_px))

    def draw(row: Mapping[str, Any]) -> tuple[Array, str]:
        image = read_picture(output / row["files"][largest])
        return draw_labelled(image, np.zeros(image.shape[1:], np.uint32), is_rgb=len(image) == 3), str(row["split"])

    write_sheet(output / OVERVIEW, sorted(rows, key=lambda row: str(row["class"])), draw)
    return names
