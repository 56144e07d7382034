"""Simulated users click on known cells: the consensus finds these cells, and what is wrong is listed."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cellengine.cli import group
from cellengine.errors import InputError, UsageError
from cellengine.io.crops import read_crops
from cellengine.train.prepare.cellspotting import CellspottingOptions, prepare_cellspotting
from cellengine.train.prepare.clicks import Clicks, cluster, estimate_radius, find_cells, fleiss_kappa
from cellengine.train.prepare.pictures import SplitOptions
from tests.train.prepare.helpers import problems, read_list, read_report


def cluster_by_hand(places: np.ndarray, users: np.ndarray, radius: float) -> set[frozenset[int]]:
    """Merge the nearest two clusters without a common user until none are within the radius. All pairs every time."""
    clusters = {i: [i] for i in range(len(places))}
    newest = len(places)
    while True:
        options = []
        for a, b in combinations(sorted(clusters), 2):
            apart = float(np.linalg.norm(places[clusters[a]].mean(axis=0) - places[clusters[b]].mean(axis=0)))
            if apart < radius and not set(users[clusters[a]]) & set(users[clusters[b]]):
                options.append((apart, a, b))
        if not options:
            return {frozenset(members) for members in clusters.values()}
        _, a, b = min(options)
        clusters[newest] = clusters.pop(a) + clusters.pop(b)
        newest += 1


@given(st.integers(0, 10**6), st.integers(0, 14), st.floats(1, 60))
@settings(max_examples=30)
def test_clusters_are_those_of_merging_by_hand(seed: int, count: int, radius: float) -> None:
    random = np.random.default_rng(seed)
    places, users = random.uniform(0, 100, (count, 2)), random.integers(0, 4, count)
    found = cluster(places, users, radius)
    assert {frozenset(members) for members in found} == cluster_by_hand(places, users, radius)
    assert sorted(i for members in found for i in members) == list(range(count))
    assert all(len({int(users[i]) for i in members}) == len(members) for members in found)


def simulate(seed: int, users: int = 5, blunders: float = 0.0) -> tuple[np.ndarray, list[float], list[list[list[Any]]]]:
    """Cells at least 60 px apart, their true states, and the clicks of users who are off by some 4 px."""
    random = np.random.default_rng(seed)
    grid = np.array([(y, x) for y in range(70, 360, 75) for x in range(70, 440, 75)], float)
    cells = grid[random.permutation(len(grid))[:10]] + random.uniform(-5, 5, (10, 2))
    states = random.integers(0, 2, 10).astype(float).tolist()
    clicks = []
    for _ in range(users):
        mine = []
        for (y, x), state in zip(cells, states, strict=True):
            if random.random() < 0.9:
                said = state if random.random() >= blunders else 1 - state
                dy, dx = random.normal(0, 4, 2)
                mine.append(["alive" if said else "dead", float(x + dx), float(y + dy)])
        clicks.append(mine)
    return cells, states, clicks


def draw_picture(cells: np.ndarray, seed: int) -> np.ndarray:
    y, x = np.mgrid[:430, :510]
    image = np.random.default_rng(seed).normal(60, 2, (430, 510))
    for cy, cx in cells:
        image[np.hypot(y - cy, x - cx) < 12] += 100
    return image.clip(0, 255).astype(np.uint8)


def as_clicks(lists: list[list[list[Any]]]) -> Clicks:
    rows = [(y, x, user, {"alive": 1.0, "dead": 0.0}[state]) for user, mine in enumerate(lists) for state, x, y in mine]
    table = np.array(rows)
    return Clicks(table[:, :2], table[:, 2].astype(int), table[:, 3], len(lists))


def test_the_consensus_finds_the_cells_that_users_meant() -> None:
    for seed in range(5):
        cells, states, lists = simulate(seed)
        radius = estimate_radius([as_clicks(lists)])
        assert 12 < radius < 55
        found = find_cells(as_clicks(lists), radius)
        assert len(found) == 10
        for cell in found:
            distance = np.linalg.norm(cells - (cell.y, cell.x), axis=1)
            assert distance.min() < 8
            assert cell.state == states[int(distance.argmin())]
            assert cell.agreement == 1.0
            assert cell.support == cell.users / 5


def test_kappa_is_that_of_the_paper() -> None:
    # six raters, three categories: the mean of P_i and chance computed by hand
    cells = [[1.0] * 6, [0.0] * 6, [1.0, 1.0, 1.0, 0.0, 0.0, 0.5]]
    observed = np.mean([1, 1, (3 * 2 + 2 * 1) / 30])
    chance = (9 / 18) ** 2 + (8 / 18) ** 2 + (1 / 18) ** 2
    assert fleiss_kappa(cells) == pytest.approx((observed - chance) / (1 - chance))
    assert fleiss_kappa([[1.0, 1.0], [0.0, 0.0]]) == 1.0
    assert fleiss_kappa([[1.0], [1.0, 1.0]]) is None


def test_radius_needs_two_users_and_two_cells() -> None:
    with pytest.raises(InputError, match="give --radius"):
        estimate_radius([Clicks(np.zeros((1, 2)), np.zeros(1, int), np.zeros(1), 2)])


OPTIONS = CellspottingOptions(SplitOptions(0.2, 0.2), sizes_px=(40, 64))


def write_study(folder: Path, pictures: int = 8) -> dict[str, Any]:
    (folder / "pictures").mkdir(parents=True)
    data = {}
    for i in range(pictures):
        cells, _, clicks = simulate(i, blunders=0.05)
        iio.imwrite(folder / "pictures" / f"p{i}.png", draw_picture(cells, i))
        data[f"p{i}.png"] = clicks
    (folder / "clicks.json").write_text(json.dumps(data))
    return data


def test_crops_of_every_size_balanced_and_split_by_picture(tmp_path: Path) -> None:
    write_study(tmp_path)
    prepare_cellspotting(tmp_path / "clicks.json", tmp_path / "pictures", tmp_path / "out", OPTIONS)
    lists = {size: read_list(tmp_path / "out" / f"list_{size}.csv") for size in (40, 64)}
    for size, rows in lists.items():
        crops = read_crops(tmp_path / "out" / f"list_{size}.csv", ("dead", "live"), (size, size))
        assert {crop.image.shape for crop in crops} == {(1, size, size)}
        counts = Counter(row["class"] for row in rows)
        assert counts["live"] == counts["dead"] > 10
        assert {row["split"] for row in rows} == {"train", "val", "test"}
        assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows})
    same = ("class", "split", "group", "y", "x")
    assert [[row[c] for c in same] for row in lists[40]] == [[row[c] for c in same] for row in lists[64]]
    for row in lists[40]:
        crop = iio.imread(tmp_path / "out" / row["image"])
        assert crop[14:26, 14:26].mean() > 140
        assert crop[:3].mean() < 80
    numbers = read_report(tmp_path / "out")["numbers"]
    assert numbers["cells_agreed_on"] >= 78
    assert numbers["fleiss_kappa_of_states"] > 0.7
    assert len(read_list(tmp_path / "out" / "cells.csv")) == numbers["cells_found"]


def test_edited_clicks_count_and_only_their_picture_is_cut_anew(tmp_path: Path) -> None:
    data = write_study(tmp_path)
    arguments = (tmp_path / "clicks.json", tmp_path / "pictures", tmp_path / "out", OPTIONS)
    prepare_cellspotting(*arguments)
    assert prepare_cellspotting(*arguments).was_complete
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "crops_40").iterdir()}
    rows = read_list(tmp_path / "out" / "cells.csv")
    data["p3.png"] = [[click for click in user if click[1] > 200] for user in data["p3.png"]]
    (tmp_path / "clicks.json").write_text(json.dumps(data))
    assert not prepare_cellspotting(*arguments).was_complete
    assert len(read_list(tmp_path / "out" / "cells.csv")) < len(rows)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed
    assert all(name.startswith("p3_") for name in changed)


def test_both_forms_of_json_mean_the_same(tmp_path: Path) -> None:
    data = write_study(tmp_path)
    tasks = [
        {"picture": picture, "user": f"u{i}", "clicks": clicks}
        for picture, users in data.items()
        for i, clicks in enumerate(users)
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    for name in ("clicks", "tasks"):
        prepare_cellspotting(tmp_path / f"{name}.json", tmp_path / "pictures", tmp_path / name, OPTIONS)
    for file in ("cells.csv", "list_40.csv"):
        assert (tmp_path / "clicks" / file).read_bytes() == (tmp_path / "tasks" / file).read_bytes()


def test_every_defect_is_listed(tmp_path: Path) -> None:
    data = write_study(tmp_path)
    both = [[["alive", 30, 200]], [["alive", 32, 200]]]
    iio.imwrite(tmp_path / "pictures" / "odd.png", draw_picture(np.array([(200, 30), (200, 90)]), 1))
    tasks = [{"picture": p, "user": str(i), "clicks": c} for p, users in data.items() for i, c in enumerate(users)]
    tasks += [{"picture": "gone.png", "user": "a", "clicks": []}, {"picture": "gone.png", "user": "b", "clicks": []}]
    tasks += [{"picture": "odd.png", "user": str(i), "clicks": clicks} for i, clicks in enumerate(both)]
    tasks[-2]["clicks"] += [["alive", 250, 300], ["alive", 90, 200], ["alive", 9999, 5], ["green", 1, 2], ["dead", "x"]]
    tasks[-1]["clicks"] += [["alive", 250, 300], ["dead", 90, 200]]
    tasks += [{"picture": "p0.png", "user": "0", "clicks": []}, {"user": "nobody"}]
    iio.imwrite(tmp_path / "pictures" / "one.png", draw_picture(np.zeros((0, 2)), 1))
    tasks += [{"picture": "one.png", "user": "a", "clicks": [["alive", 5, 5]]}]
    iio.imwrite(tmp_path / "outside.png", draw_picture(np.array([(200, 30)]), 1))
    tasks += [{"picture": "../outside.png", "user": str(i), "clicks": clicks} for i, clicks in enumerate(both)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    prepare_cellspotting(tmp_path / "tasks.json", tmp_path / "pictures", tmp_path / "out", OPTIONS)
    found = problems(read_report(tmp_path / "out"))
    assert found["gone.png"] == ["2 users clicked on it, but the picture does not exist"]
    assert found["p0.png"][0] == "the user 0 saw it twice"
    assert found["one.png"] == ["one user alone saw it: there is nobody to agree with"]
    assert found["../outside.png"] == [f"its name leads out of {tmp_path / 'pictures'}"]
    assert found[f"task {len(tasks) - 4}"] == ["no picture or no list of clicks"]
    assert found["odd.png"] == [
        'a click ["green", 1, 2]; expected [alive | dead | not_sure_alive, x, y]',
        'a click ["dead", "x"]; expected [alive | dead | not_sure_alive, x, y]',
        "1 clicks outside the picture of 430 x 510 px",
        "a crop of 64 px around y 200, x 31 leaves the picture",
        "nothing is seen around y 300, x 250: the crop is empty",
        "none of its 3 cells can be cut out",
    ]
    uses = {row["use"] for row in read_list(tmp_path / "out" / "cells.csv") if row["picture"] == "odd.png"}
    assert uses == {"border", "empty", "undecided"}


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "text.json").write_text('"text"')
    for name, error, message in (
        ("nowhere", UsageError, "does not exist"),
        ("bad", InputError, "is not JSON"),
        ("none", InputError, "no tasks with clicks in it"),
        ("text", InputError, "found str"),
    ):
        with pytest.raises(error, match=message):
            prepare_cellspotting(tmp_path / f"{name}.json", tmp_path, tmp_path / "out", OPTIONS)


def test_the_command_estimates_the_radius(tmp_path: Path) -> None:
    write_study(tmp_path)
    arguments = ["prepare", "cellspotting", str(tmp_path / "clicks.json"), str(tmp_path / "pictures")]
    arguments += ["-o", str(tmp_path / "out"), "--radius", "estimate", "--size", "32"]
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    assert "crops listed" in result.output
    assert 12 < read_report(tmp_path / "out")["numbers"]["used_radius_px"] < 55
    assert CliRunner().invoke(group, [*arguments[:-4], "--radius", "-3"]).exit_code == 2
    assert CliRunner().invoke(group, [*arguments[:-1], "0"]).exit_code == 2
