"""How a data set is parted: drawn by seed, whole groups at a time, and never the same picture on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cellengine.errors import InputError

_FIRST_BYTES = 1 << 16


def draw_split(
    groups: Sequence[str], shares: Mapping[str, float], seed: int, classes: Sequence[str] | None = None
) -> list[str]:
    """The split of every item, drawn by `seed` so that a group is never in two.

    Args:
        groups: one name an item; items of one group stay together
        shares: part of the items that each split should get, by its name; they sum to 1
        seed: another seed, another split
        classes: one name an item; each class is then shared out alike, as far as the groups allow

    Groups too large for the smallest split are given out first, the others in random order, each to the split that
    lacks most; every split gets one group at least. Raises InputError when there are fewer groups than splits.
    O(groups x splits x classes).
    """
    kinds = classes if classes is not None else [""] * len(groups)
    contents: dict[str, Counter[str]] = {name: Counter() for name in sorted(set(groups))}
    for group, kind in zip(groups, kinds, strict=True):
        contents[group][kind] += 1
    if len(contents) < len(shares):
        raise InputError(
            f"Found {len(contents)} group{'s' * (len(contents) != 1)} of pictures; at least {len(shares)} are needed "
            f"for the splits {', '.join(shares)}."
        )
    names = [list(contents)[i] for i in np.random.default_rng(seed).permutation(len(contents))]
    fitting = min(shares.values()) * len(groups)
    names.sort(key=lambda name: contents[name].total() <= fitting)
    total = Counter(kinds)
    lacks = {split: {kind: share * n for kind, n in total.items()} for split, share in shares.items()}
    chosen: dict[str, str] = {}
    for name in names:
        need = {s: sum(lack[k] * n / total[k] for k, n in contents[name].items()) for s, lack in lacks.items()}
        chosen[name] = max(need, key=lambda split: need[split])
        for kind, n in contents[name].items():
            lacks[chosen[name]][kind] -= n
    _fill_empty(chosen, list(shares), names)
    return [chosen[group] for group in groups]


def check_splits(path: Path, groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raise InputError when a group is in two splits, or train or val is empty."""
    pairs = set(zip(groups, splits, strict=True))
    twice = len(pairs) - len(set(groups))
    if twice:
        raise InputError(f"{path}: {twice} groups of pictures are in more than one split.")
    for split in ("train", "val"):
        if split not in splits:
            raise InputError(f"{path}: nothing has the split {split}; found {', '.join(sorted(set(splits)))}.")


def check_copies(path: Path, names: Sequence[str], contents: Sequence[Hashable], splits: Sequence[str]) -> None:
    """Raise InputError when the same picture, as `contents` tell, is in two splits; it names the first two."""
    first: dict[Hashable, int] = {}
    twice = [(first.setdefault(content, i), i) for i, content in enumerate(contents)]
    apart = [(a, b) for a, b in twice if splits[a] != splits[b]]
    if apart:
        a, b = apart[0]
        more = f"; and {len(apart) - 1} more" if len(apart) > 1 else ""
        raise InputError(
            f"{path}: {names[a]} ({splits[a]}) and {names[b]} ({splits[b]}) are the same picture{more}; "
            "leave copies out, or put them in one split."
        )


def tell_apart(paths: Sequence[Path]) -> list[Hashable]:
    """One key a file, the same for files of the same bytes; whole files are read only to compare the like."""
    keys: list[tuple[Hashable, ...]] = [() if path.is_file() else (path,) for path in paths]
    for look in (_size, _beginning, _digest):
        often = Counter(keys)
        keys = [
            (*key, look(path)) if often[key] > 1 and path.is_file() else key
            for key, path in zip(keys, paths, strict=True)
        ]
    return list(keys)


def join_copies(groups: Sequence[str], contents: Sequence[Hashable]) -> list[str]:
    """The groups once more, those that hold copies of one picture under one name: a draw then keeps them together."""
    joins = {group: group for group in groups}

    def name(group: str) -> str:
        while joins[group] != group:
            group = joins[group]
        return group

    first: dict[Hashable, str] = {}
    for group, content in zip(groups, contents, strict=True):
        one, other = sorted((name(first.setdefault(content, group)), name(group)))
        joins[other] = one
    return [name(group) for group in groups]


def _fill_empty(chosen: dict[str, str], splits: Sequence[str], names: Sequence[str]) -> None:
    """Give each empty split the smallest group of a split that has several."""
    for split in splits:
        if split not in chosen.values():
            counts = Counter(chosen.values())
            spare = next(name for name in reversed(names) if counts[chosen[name]] > 1)
            chosen[spare] = split


def _size(path: Path) -> Hashable:
    return path.stat().st_size


def _beginning(path: Path) -> Hashable:
    with path.open("rb") as file:
        return file.read(_FIRST_BYTES)


def _digest(path: Path) -> Hashable:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
