"""Array work: no files, no models, no torch. Plain functions on numpy arrays, compiled where no library is fast."""

from cellengine.ops.decoders import argmax, boundary_watershed, components, distance_watershed
from cellengine.ops.detections import nms, nms_masks, owned, paste_mask, paste_masks
from cellengine.ops.graph import RegionGraph, agglomerate, merge_regions, region_graph
from cellengine.ops.labels import fill_holes, grow, outlines, relabel, remove_small
from cellengine.ops.measure import ObjectStatistics, ObjectTable, measure_objects
from cellengine.ops.normalize import (
    ChannelStatistics,
    Measurement,
    Scale,
    measure,
    normalize_into,
    range_scale,
)
from cellengine.ops.seeds import h_maxima, h_maxima_seeds, local_maxima_seeds
from cellengine.ops.shape import ObjectShapes, measure_shapes
from cellengine.ops.smooth import gaussian
from cellengine.ops.watershed import watershed

__all__ = [
    "ChannelStatistics",
    "Measurement",
    "ObjectShapes",
    "ObjectStatistics",
    "ObjectTable",
    "RegionGraph",
    "Scale",
    "agglomerate",
    "argmax",
    "boundary_watershed",
    "components",
    "distance_watershed",
    "fill_holes",
    "gaussian",
    "grow",
    "h_maxima",
    "h_maxima_seeds",
    "local_maxima_seeds",
    "measure",
    "measure_objects",
    "measure_shapes",
    "merge_regions",
    "nms",
    "nms_masks",
    "normalize_into",
    "outlines",
    "owned",
    "paste_mask",
    "paste_masks",
    "range_scale",
    "region_graph",
    "relabel",
    "remove_small",
    "watershed",
]
