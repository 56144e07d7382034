"""The golden test that a model carries: an input made by an integer formula, and what the model answered to it.

With it a workstation can prove that its device computes, in its precision, what the model computed where it was
exported. The input needs no random generator, because library streams change between versions.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellengine.engine.session import Session
from cellengine.errors import ModelError
from cellengine.records import RecordError, from_plain, to_plain

GOLDEN_VERSION = 1
SAMPLES = 4096
"""values kept per output: 16 KB, whatever the size of the tile"""

TOLERANCES = {"fp32": (2e-4, 2e-5), "fp16": (0.03, 0.003), "bf16": (0.15, 0.015), "int8": (0.4, 0.04)}
"""precision -> largest and mean absolute difference allowed, as shares of the output's range (at least 1)

They tell a right computation from a wrong one (another weight, TF32 or bf16 in place of fp32); how much of the
objects a precision keeps is measured on real pictures at export.
"""


@dataclass(frozen=True, slots=True)
class GoldenOutput:
    """What one output of the network was."""

    shape: tuple[int, ...]
    mean: float
    """over all values, so that the ones not sampled count too"""
    values: str
    """little-endian float32 at `sample_positions`, deflated, base64"""


@dataclass(frozen=True, slots=True)
class Golden:
    """The test as the model's metadata keep it; the input is `golden_input(channels, tile)`."""

    channels: int
    tile: tuple[int, ...]
    outputs: dict[str, GoldenOutput]
    golden_version: int = GOLDEN_VERSION

    def to_json(self) -> str:
        """The text for the metadata entry `GOLDEN_KEY` of `engine.model_file`."""
        return json.dumps(to_plain(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> Golden:
        """Read the test; `where` names the file. Raises ModelError when it is damaged or of another version."""
        try:
            data = json.loads(text)
            if isinstance(data, dict) and data.get("golden_version") != GOLDEN_VERSION:
                raise ValueError(f"version {data.get('golden_version')}, known here is {GOLDEN_VERSION}")
            golden = from_plain(cls, data)
            for output in golden.outputs.values():
                expected = len(sample_positions(int(np.prod(output.shape, dtype=np.int64))))
                if len(_decode(output.values)) != expected:
                    raise ValueError(f"{expected} values expected")
        except (json.JSONDecodeError, RecordError, ValueError, zlib.error) as error:
            raise ModelError(
                f"{where}: its golden test cannot be used ({error}); update cellengine or export the model again."
            ) from error
        return golden


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How far a session is from the expected answer; differences are shares of the output's range (at least 1)."""

    passed: bool
    precision: str
    largest: float
    """largest difference of a sampled value, over all outputs"""
    mean: float
    """mean difference of the sampled values, of the worst output"""
    allowed_largest: float
    allowed_mean: float
    problem: str = ""
    """why it did not pass; empty when it did"""


def golden_tile(divisor: tuple[int, ...]) -> tuple[int, ...]:
    """The small tile of the test: at least 64 px a side in 2D and 32 in 3D, in multiples of `divisor`."""
    least = 64 if len(divisor) == 2 else 32
    return tuple(-(-least // d) * d for d in divisor)


def golden_input(channels: int, tile: tuple[int, ...]) -> NDArray[np.float32]:
    """The picture of the test: float32 (1, channels, *tile), in 0..1.

    The value at channel c and position p is (2 noise(p // 8) + noise(p // 8, c) + noise(p, c)) / 1020, where `noise`
    hashes whole numbers to 0..255: blocks of 8 px shared by the channels, blocks of one channel, and noise of one
    pixel, so that networks for blobs find something to answer. Whole numbers until one exact division: the same bits
    everywhere.
    """
    channel, *position = np.indices((channels, *tile), dtype=np.uint32)
    blocks = [p // np.uint32(8) for p in position]
    total = 2 * _noise(*blocks) + _noise(*blocks, channel) + _noise(*position, channel)
    return (total.astype(np.float32) / np.float32(1020))[None]


def make_golden(outputs: Mapping[str, NDArray[np.float32]], channels: int, tile: tuple[int, ...]) -> Golden:
    """The test from what the fp32 model answered to `golden_input(channels, tile)`; ValueError when not finite."""
    kept = {}
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise ValueError(f"The output {name} of the golden test is not finite.")
        kept[name] = GoldenOutput(values.shape, float(values.mean(dtype=np.float64)), _encode(_sample(values)))
    return Golden(channels, tile, kept)


def check_golden(session: Session, golden: Golden, slack: float = 1.0) -> GoldenResult:
    """Run the test on `session` and compare, with the tolerance of its precision times `slack`."""
    allowed_largest, allowed_mean = (slack * allowed for allowed in TOLERANCES[session.precision])
    outputs = session.run(golden_input(golden.channels, golden.tile))
    largest = mean = 0.0
    problems = []
    for name, expected in golden.outputs.items():
        if session.precision != "fp32" and "scores" in golden.outputs and name != "scores":
            continue  # objects of nearly one score change places; the sorted scores themselves do not
        if name not in outputs or outputs[name].shape != expected.shape:
            found = outputs[name].shape if name in outputs else "nothing"
            problems.append(f"{name}: found {found}, expected {expected.shape}")
            continue
        if not np.isfinite(outputs[name]).all():
            problems.append(f"{name} is not finite")
            continue
        values = _decode(expected.values)
        scale = max(1.0, float(np.abs(values).max()))
        difference = np.abs(_sample(outputs[name]) - values) / scale
        drift = abs(float(outputs[name].mean(dtype=np.float64)) - expected.mean) / scale
        largest, mean = max(largest, float(difference.max())), max(mean, float(difference.mean()), drift)
    if largest > allowed_largest or mean > allowed_mean:
        problems.append(
            f"differs by up to {largest:.2g} ({mean:.2g} in the mean), "
            f"allowed for {session.precision} are {allowed_largest:g} ({allowed_mean:g})"
        )
    return GoldenResult(
        not problems, session.precision, largest, mean, allowed_largest, allowed_mean, "; ".join(problems)
    )


def sample_positions(size: int) -> NDArray[np.int64]:
    """Flat positions that are kept of an output of `size` values: all, or `SAMPLES` spread by multiplicative hash."""
    if size <= SAMPLES:
        return np.arange(size)
    spread = (np.arange(SAMPLES, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    return ((spread * np.uint64(size)) >> np.uint64(32)).astype(np.int64)


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.reshape(-1)[sample_positions(values.size)]


def _noise(*numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Eight bits from several numbers: Knuth's multiplicative hash, chained; all arithmetic modulo 2^32."""
    mixed = np.zeros((), dtype=np.uint32)
    for number in numbers:
        mixed = ((mixed ^ (mixed >> np.uint32(15))) + number + np.uint32(1)) * np.uint32(2654435761)
    return mixed >> np.uint32(24)


def _encode(values: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode("ascii")


def _decode(text: str) -> NDArray[np.float32]:
    inflater = zlib.decompressobj()
    data = inflater.decompress(base64.b64decode(text, validate=True), 4 * SAMPLES)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("more values than the test keeps, or cut short")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)
