"""Random changes of image and targets together: one resampling however often a crop is turned, then changes of light.

A sample has to be ready in a fraction of a step, on the same cores. Libraries resample image and targets once for every
change, after a copy that is large enough for all of them; here all turns, shears and zooms of a sample make one map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cellengine.ops.warp import pick, warp, warp_each
from cellengine.train.chance import BLOCK, Chance
from cellengine.train.light import changes_of_light
from cellengine.train.moves import Moves, draw_moves
from cellengine.train.settings import AugmentConfig

Array = np.ndarray[Any, Any]


class Augmentation:
    """Cuts a crop out of a picture, changed at random: `config` says how, the chance that it is given decides."""

    def __init__(self, config: AugmentConfig, crop_px: Sequence[int], *, nearest: bool = False) -> None:
        """With `nearest` targets keep their values (class ids); else they are interpolated."""
        self.config, self.crop_px, self.nearest = config, tuple(crop_px), nearest
        self.light = changes_of_light(config)
        self.held: tuple[tuple[int, int], Moves] | None = None

    def __call__(
        self, image: Array, maps: Sequence[Array], centre: Sequence[int] | Array, chance: Chance
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The crop around voxel `centre` of `image` (C, *spatial) and of the target `maps` (*spatial).

        Returns both float32, (C, *crop) and (T, *crop). Beyond the border pictures go on mirrored. The first map has to
        be the foreground.
        """
        seen = np.empty((len(image), *self.crop_px), np.float32)
        targets = np.empty((len(maps), *self.crop_px), np.float32)
        self.fill(seen, targets, image, maps, centre, chance)
        return torch.from_numpy(seen), torch.from_numpy(targets)

    def fill(
        self,
        seen: Array,
        targets: Array,
        image: Array,
        maps: Sequence[Array],
        centre: Sequence[int] | Array,
        chance: Chance,
    ) -> None:
        """Write what a call would return into `seen` and `targets`, such as parts of a batch."""
        moves, number = self._moves_of(chance), chance.number % BLOCK
        matrix, offset = moves.matrix[number], moves.offset[number] + centre
        shifts = self._draw_deformation(chance) if self.config.elastic_px else None
        between_voxels = moves.bends[number] or shifts is not None
        pairs = [(image, seen, False), *((m[None], t[None], self.nearest) for m, t in zip(maps, targets, strict=True))]
        for values, out, nearest in pairs:
            if between_voxels:
                warp(values, matrix, offset, out, shifts=shifts, nearest=nearest)
            else:
                pick(values, matrix, offset, out)
        self._change_light(seen, targets, moves.changes[number], chance)

    def of_crops(self, images: Array, chosen: Array, centre: Array, chances: Sequence[Chance]) -> torch.Tensor:
        """The crops around `centre` of many pictures of one shape, float32 (n, C, *crop): the `chosen` of `images`.

        What a call for each would give, in a third of the time: of small crops most of it goes by between the loops.
        """
        if self.config.elastic_px:
            return torch.stack([self(images[i], [], centre, c)[0] for i, c in zip(chosen, chances, strict=True)])
        seen = np.empty((len(chances), images.shape[1], *self.crop_px), np.float32)
        moves = [(self._moves_of(chance), chance.number % BLOCK) for chance in chances]
        matrices = np.stack([block.matrix[number] for block, number in moves])
        offsets = np.stack([block.offset[number] for block, number in moves]) + centre
        warp_each(images, chosen, matrices, offsets, seen)
        no_targets = np.empty((0, *self.crop_px), np.float32)
        for crop, (block, number), chance in zip(seen, moves, chances, strict=True):
            self._change_light(crop, no_targets, block.changes[number], chance)
        return torch.from_numpy(seen)

    def _change_light(self, seen: Array, targets: Array, chosen: Sequence[bool], chance: Chance) -> None:
        changed = seen
        for happens, (_, change) in zip(chosen, self.light, strict=True):
            if happens:
                changed = change(changed, targets, chance)
        if changed is not seen:
            seen[:] = changed

    def _moves_of(self, chance: Chance) -> Moves:
        """What is drawn for the samples around this one; those of the samples before it are mostly at hand."""
        wanted, held = (chance.seed, chance.number // BLOCK), self.held
        if held is not None and held[0] == wanted:
            return held[1]
        light = [probability for probability, _ in self.light]
        moves = draw_moves(self.config, self.crop_px, light, *wanted)
        self.held = wanted, moves  # in one go: threads share it
        return moves

    def _draw_deformation(self, chance: Chance) -> Array | None:
        """Smooth shifts (D, *crop) in px, drawn on a grid and interpolated in between (Simard et al. 2003)."""
        config = self.config
        if chance.random() >= config.elastic_probability:
            return None
        dims = len(self.crop_px)
        coarse = (1, dims, *(int(n / config.elastic_grain_px) + 2 for n in self.crop_px))
        values = torch.from_numpy(chance.normal(coarse)) * config.elastic_px
        linear = "bilinear" if dims == 2 else "trilinear"
        shifts: Array = functional.interpolate(values, self.crop_px, mode=linear, align_corners=True).numpy()[0]
        return shifts
