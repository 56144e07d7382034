"""The lines of `cellengine infer --plan`: how inputs would be labelled, and what that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cellengine.engine.forecast import Forecast


def describe_plan(inputs: Sequence[Forecast]) -> Iterator[str]:
    """What `infer` would do with each input, and with all of them."""
    for number, one in enumerate(inputs, 1):
        yield f"file {number}/{len(inputs)} {one.name}: {one.axes} {_by(one.shape)}"
        tiles = one.pictures * len(one.plan.grid)
        yield f"  network: {tiles} tiles of {_by(one.plan.tile)} px with a halo of {_by(one.plan.halo)}"
        if one.streaming is None and one.resumable:
            yield "  labels: from tile to tile; what is finished is kept on disk"
        elif one.streaming is None:
            yield "  labels: each picture in one piece, in memory"
        else:
            cut = one.streaming.cut
            yield (
                f"  labels: {one.blocks} blocks of {_by(cut.core)} px and {cut.margins.overlap} px around them, "
                f"{one.streaming.threads} at a time; what is finished is kept on disk"
            )
        yield f"  memory: about {_size(one.memory_bytes)} at most; disk: about {_size(one.disk_bytes)}"
        yield f"  time: {_time(one.seconds)}"
    if len(inputs) > 1:
        known = [one.seconds for one in inputs if one.seconds is not None]
        total = _time(sum(known) if len(known) == len(inputs) else None)
        disk = sum(one.disk_bytes for one in inputs)
        yield f"all {len(inputs)} files: {total}; disk: about {_size(disk)}"


def _by(lengths: tuple[int, ...]) -> str:
    return " x ".join(map(str, lengths))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _time(seconds: float | None) -> str:
    """The network's share; what labelling adds overlaps with it."""
    if seconds is None:
        return "not known, this model was never timed here (--backend auto does it once)"
    if seconds < 120:
        return f"about {max(1, round(seconds))} s for the network, as timed here"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min for the network, as timed here"
    return f"about {seconds / 3600:.1f} h for the network, as timed here"
