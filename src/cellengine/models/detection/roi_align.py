"""RoIAlign (He et al. 2017): the features under each box, resampled to a small square, from the level that fits it.

Three forms of one computation. Where torch runs, every feature is a row of a table and every cell a weighted sum of
rows: a third of the work of sampling maps, there and back. Graphs are exported with bilinear sampling of a map, which
is what TensorRT takes, or with the ONNX operator RoiAlign (CPU and CUDA runtimes, four times less memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch.nn import functional

from cellengine.models.detection.boxes import area
from cellengine.models.detection.config import ROI_LEVELS, MaskRCNNConfig

RoiForm = Literal["rows", "gridsample", "roialign"]

SAMPLES = 2
"""samples a side in every cell of the square; their mean is the cell's value"""


@dataclass(frozen=True, slots=True)
class RoiAlign:
    """Reads boxes out of the first four levels of a pyramid."""

    config: MaskRCNNConfig
    form: RoiForm = "rows"

    def __call__(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Features (N * K, C, size, size), float32, of `boxes` (N, K, 4) inside the picture, px, float32.

        Each box is read at one level: by its size, as Lin et al. 2017 choose it.
        """
        maps = [m.float() for m in maps[:ROI_LEVELS]]
        if self.form == "rows":
            return self._by_rows(maps, boxes, size)
        if self.form == "roialign":
            return self._by_operator(maps, boxes, size)
        return self._by_sampling(maps, boxes, size)

    def levels(self, boxes: torch.Tensor) -> torch.Tensor:
        """Level of each box, (N, K), whole numbers as float32: 0 for the finest."""
        side_squared = area(boxes)
        limits = [self.config.canonical_px * 2.0 ** (level - 2) for level in range(1, ROI_LEVELS)]
        return cast(torch.Tensor, sum((side_squared >= limit**2).to(boxes.dtype) for limit in limits))

    def _by_rows(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Every cell is the weighted sum of the sixteen features around its samples.

        Features and their gradients stay channels last, as convolutions leave them: BatchNorm's backward pass is fifty
        times slower on gradients of another layout. Memory: 200 bytes a cell beside the result.
        """
        n, k = boxes.shape[:2]
        table = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])
        level = self.levels(boxes)
        heights, widths, areas, starts = _table_layout(maps)[:, level.long()].unbind()
        y, weight_y = self._corners(boxes[..., 1], boxes[..., 3], size, level, heights)
        x, weight_x = self._corners(boxes[..., 0], boxes[..., 2], size, level, widths)
        picture = torch.arange(n, device=boxes.device)[:, None]
        y = (starts + picture * areas)[..., None, None] + y * widths[..., None, None]
        rows = y[:, :, :, None, :, None] + x[:, :, None, :, None, :]
        weights = weight_y[:, :, :, None, :, None] * weight_x[:, :, None, :, None, :]
        around = (2 * SAMPLES) ** 2
        pooled = functional.embedding_bag(
            rows.reshape(-1, around), table, mode="sum", per_sample_weights=weights.reshape(-1, around)
        )
        return pooled.reshape(n * k, size, size, -1).permute(0, 3, 1, 2)

    def _corners(
        self, low: torch.Tensor, high: torch.Tensor, size: int, level: torch.Tensor, length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each cell along one axis, the features on either side of its samples: which they are, and their weights.

        Both (N, K, size, 2 * SAMPLES). `length` is the number of features at each box's level, (N, K).
        """
        last = (length - 1)[..., None]
        at = torch.minimum(self._places(low, high, size, level).clamp_min(0), last.to(low.dtype))
        below = at.floor()
        share = at - below
        first = below.long()
        index = torch.stack([first, torch.minimum(first + 1, last)], dim=-1)
        weight = torch.stack([1 - share, share], dim=-1) / SAMPLES
        cells = (*at.shape[:2], size, 2 * SAMPLES)
        return index.reshape(cells), weight.reshape(cells)

    def _by_sampling(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
        """All levels lie side by side in one map, so that one sampling serves every box.

        Places are kept inside their level, where bilinear weights vanish beyond its last feature: the border is
        repeated, as RoIAlign has it. Memory: four times the result.
        """
        atlas, offsets = _atlas(maps)
        level = self.levels(boxes)
        x = self._places(boxes[..., 0], boxes[..., 2], size, level)
        y = self._places(boxes[..., 1], boxes[..., 3], size, level)
        x = self._inside(x, level, [m.shape[3] for m in maps], [o[1] for o in offsets])
        y = self._inside(y, level, [m.shape[2] for m in maps], [o[0] for o in offsets])
        n, k, side = x.shape
        x = (2 * x + 1) / atlas.shape[3] - 1
        y = (2 * y + 1) / atlas.shape[2] - 1
        grid = torch.stack(
            [x[:, :, None, :].expand(n, k, side, side), y[:, :, :, None].expand(n, k, side, side)], dim=-1
        )
        found = functional.grid_sample(
            atlas, grid.reshape(n, k * side, side, 2), "bilinear", "border", align_corners=False
        )
        pooled = functional.avg_pool2d(found, SAMPLES).reshape(n, -1, k, size, size)
        return pooled.transpose(1, 2).reshape(n * k, -1, size, size)

    def _places(self, low: torch.Tensor, high: torch.Tensor, size: int, level: torch.Tensor) -> torch.Tensor:
        """Where samples lie along one axis, (N, K, size * SAMPLES), in features of the box's level (centres whole)."""
        scale = self._by_level(level, [1.0 / s for s in self.config.strides[:ROI_LEVELS]])
        low, high = low * scale, high * scale
        length = high - low
        if self.config.roi_aligned:
            low = low - 0.5
        else:
            length = length.clamp_min(1.0)
        step = length / (size * SAMPLES)
        at = torch.arange(size * SAMPLES, device=low.device, dtype=low.dtype) + 0.5
        return low[..., None] + step[..., None] * at

    def _inside(
        self, places: torch.Tensor, level: torch.Tensor, lengths: Sequence[int], offsets: Sequence[int]
    ) -> torch.Tensor:
        last = self._by_level(level, [n - 1 for n in lengths])[..., None]
        start = self._by_level(level, offsets)[..., None]
        return torch.minimum(places.clamp_min(0), last) + start

    @staticmethod
    def _by_level(level: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
        """The entry of `values` that belongs to each box; they may be symbolic, so no tensor is made of them."""
        return cast(torch.Tensor, sum((level == i).to(level.dtype) * value for i, value in enumerate(values)))

    def _by_operator(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Every box is read from every level, and the one that fits is selected."""
        n, k = boxes.shape[:2]
        picture = torch.arange(n, device=boxes.device)[:, None].expand(n, k).reshape(-1)
        flat, level = boxes.reshape(-1, 4), self.levels(boxes).reshape(-1, 1, 1, 1)
        total: torch.Tensor | None = None
        for i, (features, stride) in enumerate(zip(maps, self.config.strides, strict=False)):
            read = torch.onnx.ops.symbolic(
                "RoiAlign",
                (features, flat, picture),
                {
                    "coordinate_transformation_mode": "half_pixel" if self.config.roi_aligned else "output_half_pixel",
                    "mode": "avg",
                    "output_height": size,
                    "output_width": size,
                    "sampling_ratio": SAMPLES,
                    "spatial_scale": 1.0 / stride,
                },
                dtype=torch.float32,
                shape=(flat.shape[0], features.shape[1], size, size),
                version=16,
            )
            part = read * (level == i).to(read.dtype)
            total = part if total is None else total + part
        assert total is not None
        return total


def _atlas(maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """The finest map, with the coarser ones stacked on its right; and the origin (y, x) of each level."""
    fine, *coarse = maps
    height, width, column = fine.shape[2], fine.shape[3], coarse[0].shape[3]
    offsets: list[tuple[int, int]] = [(0, 0)]
    parts, below = [], 0
    for level in coarse:
        offsets.append((below, width))
        parts.append(functional.pad(level, (0, column - level.shape[3])))
        below += level.shape[2]
    parts.append(fine.new_zeros(fine.shape[0], fine.shape[1], height - below, column))
    return torch.cat([fine, torch.cat(parts, dim=2)], dim=3), offsets


def _table_layout(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each level, (4, levels): features along y and x, of a picture in all, and its first row in the table."""
    sides = [(m.shape[2], m.shape[3]) for m in maps]
    areas = [height * width for height, width in sides]
    starts = [maps[0].shape[0] * sum(areas[:i]) for i in range(len(areas))]
    return torch.tensor([[h for h, _ in sides], [w for _, w in sides], areas, starts], device=maps[0].device)
