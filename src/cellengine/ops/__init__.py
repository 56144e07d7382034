"""Array work: no files, no models, no torch. Plain functions on numpy arrays, compiled where no library is fast."""

from cellengine.ops.normalize import (
    ChannelStatistics,
    Measurement,
    Scale,
    measure,
    normalize_into,
    percentile_scale,
    range_scale,
    standard_scale,
)

__all__ = [
    "ChannelStatistics",
    "Measurement",
    "Scale",
    "measure",
    "normalize_into",
    "percentile_scale",
    "range_scale",
    "standard_scale",
]
