"""Pictures on which many users clicked live and dead cells: the cells they agree on, as crops for a classifier.

The clicks are JSON in one of two forms, x and y in pixels from the upper left corner:

    {"a.png": [[["alive", x, y], ["dead", x, y]], [["alive", x, y]]], ...}      one list a user
    [{"picture": "a.png", "user": "u1", "clicks": [["alive", x, y], ...]}, ...]     one task an entry; user is optional
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.errors import InputError, UsageError
from cellengine.io import write_table
from cellengine.io.crops import window
from cellengine.io.splits import draw_split
from cellengine.train.prepare.clicks import STATES, Clicks, cluster, estimate_radius, find_cells, fleiss_kappa
from cellengine.train.prepare.cutting import Array, crop_stems, leaves_picture, write_crop_lists, write_crops
from cellengine.train.prepare.frame import Control, Defect, Finished, Found, Job, Outcome, digest, run_jobs
from cellengine.train.prepare.pictures import SplitOptions, read_picture
from cellengine.train.prepare.report import DataReport, count_by, write_report

NOISE_SPAN = 2 * 4.65
"""a crop whose grey levels span (1st to 99th percentile) fewer standard deviations of the picture's noise than this
shows no cell: noise alone spans 4.65"""
Task = tuple[str, str, list[Any]]
"""picture, user, clicks"""


@dataclass(frozen=True, slots=True)
class CellspottingOptions:
    """What is decided about clicks and crops."""

    split: SplitOptions = field(default_factory=lambda: SplitOptions(0.1, 0.1))
    radius_px: float | None = 35.0
    """clicks of different users that are nearer are one cell; None estimates it from the clicks"""
    min_support: float = 0.5
    """share of the users of a picture who must have clicked on a cell; two at least"""
    sizes_px: tuple[int, ...] = (90, 95, 100, 128)
    balance: bool = True
    """draw as many cells of the commoner class as there are of the rarer"""


def prepare_cellspotting(
    clicks: Path,
    pictures: Path,
    output: Path,
    options: CellspottingOptions,
    *,
    control: Control | None = None,
) -> Finished:
    """Write crops_<size>/, a list a size, and cells.csv to `output`; see `run_jobs` for how it resumes.

    Raises UsageError for paths that do not exist, InputError for a file that holds no clicks.
    """
    tasks, defects = read_tasks(clicks)
    grouped, more = _by_picture(tasks, pictures)
    defects += more
    radius = options.radius_px or estimate_radius(list(grouped.values()))
    jobs = [
        Job(
            name,
            (pictures / name,),
            partial(prepare_picture, name, stem, seen, radius, pictures, output, options),
            given=digest(stem, seen.user_count, *(a.tolist() for a in (seen.places, seen.users, seen.states))),
        )
        for stem, (name, seen) in zip(crop_stems(list(grouped)), grouped.items(), strict=True)
    ]
    identity = {
        "command": "prepare cellspotting",
        "source": str(clicks.resolve()),
        "pictures": str(pictures.resolve()),
        "used_radius_px": radius,
        **asdict(options),
    }
    found = Found(tuple(jobs), tuple(defects), (clicks,))
    summarise = partial(_summarise, output, options, identity)
    return run_jobs(output, identity, found, summarise, control=control)


def read_tasks(path: Path) -> tuple[list[Task], list[Defect]]:
    """The tasks of a JSON file in either form. Raises UsageError and InputError."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; expected a JSON file of clicks.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    tasks: list[Task] = []
    defects = []
    for place, entry in _entries(data, path):
        if isinstance(entry, tuple):
            tasks.append(entry)
        else:
            defects.append(Defect(place, entry))
    if not tasks:
        raise InputError(f"{path}: no tasks with clicks in it; expected {{picture: [[[state, x, y], ...], ...]}}.")
    return tasks, defects


def _entries(data: Any, path: Path) -> Iterator[tuple[str, Task | str]]:
    """Place and task, or place and what is wrong with it."""
    if isinstance(data, dict):
        for picture, users in data.items():
            for number, clicks in enumerate(users if isinstance(users, list) else [users]):
                place = f"{picture}, user {number}"
                yield place, (picture, str(number), clicks) if isinstance(clicks, list) else "no list of clicks"
    elif isinstance(data, list):
        for number, task in enumerate(data):
            known = isinstance(task, dict) and isinstance(task.get("clicks"), list) and task.get("picture")
            place = f"task {number}"
            user = str(task.get("user", place)) if known else ""
            yield place, (str(task["picture"]), user, task["clicks"]) if known else "no picture or no list of clicks"
    else:
        raise InputError(f"{path}: expected a table of pictures or a list of tasks, found {type(data).__name__}.")


def _by_picture(tasks: Sequence[Task], pictures: Path) -> tuple[dict[str, Clicks], list[Defect]]:
    """The clicks of each picture that is there and that two users saw, and everything that is wrong with the others."""
    if not pictures.is_dir():
        raise UsageError(f"{pictures} is not a folder; expected the pictures that the clicks name.")
    by: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    defects: list[Defect] = []
    for picture, user, clicks in tasks:
        if user in by[picture]:
            defects.append(Defect(picture, f"the user {user} saw it twice", "the later clicks left out"))
        else:
            by[picture][user] = clicks
    found = {}
    for picture, users in by.items():
        if not (pictures / picture).resolve().is_relative_to(pictures.resolve()):
            defects.append(Defect(picture, f"its name leads out of {pictures}"))
        elif not (pictures / picture).is_file():
            defects.append(Defect(picture, f"{len(users)} users clicked on it, but the picture does not exist"))
        elif len(users) < 2:
            defects.append(Defect(picture, "one user alone saw it: there is nobody to agree with"))
        else:
            found[picture], wrong = _clicks(picture, list(users.values()))
            defects += wrong
    return found, defects


def _clicks(picture: str, users: Sequence[Sequence[Any]]) -> tuple[Clicks, list[Defect]]:
    rows, defects = [], []
    for user, clicks in enumerate(users):
        for click in clicks:
            try:
                state, x, y = click
                rows.append((float(y), float(x), user, STATES[state]))
            except (TypeError, ValueError, KeyError):
                expected = f"[{' | '.join(STATES)}, x, y]"
                defects.append(
                    Defect(picture, f"a click {json.dumps(click)[:60]}; expected {expected}", "click left out")
                )
    table = np.array(rows, float).reshape(-1, 4)
    return Clicks(table[:, :2], table[:, 2].astype(np.int64), table[:, 3], len(users)), defects


def prepare_picture(
    name: str, stem: str, clicks: Clicks, radius_px: float, pictures: Path, output: Path, options: CellspottingOptions
) -> Outcome:
    """Find the cells of one picture and cut crops of those that can be used; `stem` begins their names."""
    image = read_picture(pictures / name)
    shape = image.shape[1:]
    inside = ((clicks.places >= 0) & (clicks.places < shape)).all(axis=1)
    defects = []
    if not inside.all():
        n = int((~inside).sum())
        defects.append(Defect(name, f"{n} clicks outside the picture of {shape[0]} x {shape[1]} px", "clicks left out"))
        clicks = Clicks(clicks.places[inside], clicks.users[inside], clicks.states[inside], clicks.user_count)
    cells, files = [], []
    least_span = NOISE_SPAN * _noise(image)
    for number, cell in enumerate(find_cells(clicks, radius_px)):
        centre = (min(int(cell.y + 0.5), shape[0] - 1), min(int(cell.x + 0.5), shape[1] - 1))
        largest = max(options.sizes_px)
        row: dict[str, Any] = {"picture": name, **asdict(cell), "class": _class(cell.state)}
        if cell.users < 2 or cell.support < options.min_support:
            row["use"] = "too few users"
        elif not row["class"]:
            row["use"] = "undecided"
        elif leaves_picture(centre, largest, shape):
            row["use"] = "border"
            defects.append(
                Defect(name, f"a crop of {largest} px around y {centre[0]}, x {centre[1]} leaves the picture")
            )
        elif _contrast(window(image, centre, (min(options.sizes_px),) * 2)) <= least_span:
            row["use"] = "empty"
            defects.append(Defect(name, f"nothing is seen around y {centre[0]}, x {centre[1]}: the crop is empty"))
        else:
            row["use"] = "crop"
            row["files"] = write_crops(output, f"{stem}_{number}", image, centre, options.sizes_px)
            files += row["files"].values()
        cells.append(row)
    by_user = np.bincount(clicks.users, minlength=clicks.user_count).tolist()
    states = [clicks.states[members].tolist() for members in cluster(clicks.places, clicks.users, radius_px)]
    facts = {"cells": cells, "clicks_by_user": by_user, "states": states}
    if not files:
        defects.append(Defect(name, f"none of its {len(cells)} cells can be cut out"))
    return Outcome(tuple(files), facts, tuple(defects))


def _contrast(image: Array) -> float:
    low, high = np.percentile(image, (1, 99))
    return float(high - low)


def _noise(image: Array) -> float:
    """Standard deviation of the noise, from the median difference of neighbours, which structure hardly moves."""
    steps = np.abs(np.diff(image.astype(np.float32), axis=-1))
    return float(np.median(steps)) / (0.6745 * 2**0.5)


def _class(state: float) -> str:
    return "live" if state > 0.5 else "dead" if state < 0.5 else ""


def balanced(classes: Sequence[str], seed: int) -> list[int]:
    """Indices of as many items of every class as the rarest has, drawn by `seed`, in their order."""
    random = np.random.default_rng(seed)
    counts = Counter(classes)
    chosen: list[int] = []
    for name in sorted(counts):
        members = np.flatnonzero(np.array(classes) == name)
        chosen += random.choice(members, min(counts.values()), replace=False).tolist()
    return sorted(chosen)


def _summarise(
    output: Path,
    options: CellspottingOptions,
    identity: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    defects: Sequence[Defect],
) -> list[str]:
    cells = [cell for outcome in outcomes.values() for cell in outcome.facts["cells"]]
    columns = [name for name in cells[0] if name != "files"]
    write_table(output / "cells.csv", {name: [cell[name] for cell in cells] for name in columns})
    usable = [cell for cell in cells if cell["use"] == "crop"]
    chosen = usable
    if options.balance:
        chosen = [usable[i] for i in balanced([cell["class"] for cell in usable], options.split.seed)]
    if not chosen:
        raise InputError(f"None of the {len(cells)} cells can be cut out: see the defects, or choose smaller crops.")
    groups = [cell["picture"] for cell in chosen]
    splits = draw_split(groups, options.split.shares, options.split.seed, [cell["class"] for cell in chosen])
    rows = [
        {"files": c["files"], "class": c["class"], "split": s, "group": c["picture"], "y": c["y"], "x": c["x"]}
        for c, s in zip(chosen, splits, strict=True)
    ]
    lists = write_crop_lists(output, rows, options.sizes_px)
    by_user = [outcome.facts["clicks_by_user"] for outcome in outcomes.values()]
    agreed = [cell for cell in cells if cell["use"] != "too few users"]
    numbers = {
        "pictures": len(outcomes),
        "clicks": sum(map(sum, by_user)),
        "used_radius_px": round(float(identity["used_radius_px"]), 2),
        "cells_found": len(cells),
        "cells_agreed_on": len(agreed),
        "mean_support_of_these": _mean([cell["support"] for cell in agreed]),
        "mean_agreement_on_their_state": _mean([cell["agreement"] for cell in agreed]),
        "mean_spread_px": _mean([cell["spread_px"] for cell in agreed]),
        "fleiss_kappa_of_states": fleiss_kappa([s for o in outcomes.values() for s in o.facts["states"]]),
        "pictures_whose_users_disagree_on_the_count": sum(len(set(counts)) > 1 for counts in by_user),
        **{f"cells_{use.replace(' ', '_')}": n for use, n in sorted(Counter(cell["use"] for cell in cells).items())},
        "crops_listed": len(rows),
    }
    tables = {"By split and class": count_by(rows, "split", "class")}
    notes = ["A crop is used in every size or in none, so that sizes can be compared."]
    write_report(output, DataReport("Clicks on cells", identity, numbers, defects, tables, notes))
    shown = ", ".join(f"{n} {use}" for use, n in Counter(cell["use"] for cell in cells).most_common())
    return [
        f"{len(cells)} cells within {numbers['used_radius_px']} px ({shown}); {len(rows)} crops listed; "
        f"{len(defects)} defects.",
        f"Lists: {', '.join(str(output / name) for name in lists)}; what to know of the data: {output / 'report.html'}",
    ]


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
