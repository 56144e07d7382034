"""Bringing a volume to a model's voxel size tile by tile: how fast, beside scikit-image's and scipy's whole arrays?

    python benchmarks/resample.py [--shape 64,1024,1024] [--factors 4,8,8] [--runs 5]

Peers: downscale_local_mean (the same means, whole factors only) and a spline of order 1 after a Gaussian, as resize
with anti-aliasing does it. Also: crops a second that a classifier behind a segmentation is given.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean

from _timing import paired, ratio, write_result
from cellengine.engine.classify import cut_crop
from cellengine.engine.options import InferOptions
from cellengine.engine.resample import ResampledSource
from cellengine.engine.scene import Scene
from cellengine.geometry import Region
from cellengine.io import MemorySource
from cellengine.spec import ClassOf, ModelSpec, Normalize, Output

CROPS = 2000


def by_tiles(source: ResampledSource, tile: int) -> None:
    """Every tile once, as the network asks for them."""
    whole = Region.whole(source.shape)
    for piece in whole.pieces(tile**3):
        source.read(piece)


def zoomed(volume: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """What resize(..., anti_aliasing=True) computes."""
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), [(f - 1) / 2 for f in factors])
    return ndimage.zoom(smooth, [1 / f for f in factors], order=1, grid_mode=True, mode="mirror")


def classifier() -> ModelSpec:
    """The crop of a classifier like the bundled one."""
    return ModelSpec(
        name="crops",
        task="classification",
        axes="YX",
        channels=("signal",),
        tile=(48, 48),
        divisor=(1, 1),
        receptive_field=(0, 0),
        halo=(0, 0),
        normalize=Normalize("percentile", 1.0, 99.8),
        outputs=(Output("classes", 2),),
        decoder=ClassOf(),
        classes=("live", "dead"),
    )


def cut(scene: Scene, centres: np.ndarray, spec: ModelSpec) -> None:
    for centre in centres.tolist():
        cut_crop(scene, centre, spec, InferOptions())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="64,1024,1024")
    parser.add_argument("--factors", default="4,8,8")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    factors = tuple(int(n) for n in options.factors.split(","))
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 4000, shape).astype(np.uint16)
    new = tuple(n // f for n, f in zip(shape, factors, strict=True))
    source = ResampledSource(MemorySource(volume, "ZYX"), new)
    difference = np.abs(source.read(Region.whole(new)) - downscale_local_mean(volume, factors)).max()
    scene = Scene(MemorySource(volume[0]), "YX", {}, (0,))
    centres = rng.integers(0, shape[1:], (CROPS, 2))
    times = paired(
        {
            "ours": partial(by_tiles, source, 64),
            "downscale_local_mean": partial(downscale_local_mean, volume, factors),
            "gaussian and zoom": partial(zoomed, volume, factors),
            "crops": partial(cut, scene, centres, classifier()),
        },
        options.runs,
    )
    figures = {
        "shape": shape,
        "factors": factors,
        "voxels_per_s": volume.size / times["ours"]["median_s"],
        "crops_per_s": CROPS / times["crops"]["median_s"],
        "largest_difference_from_local_mean": float(difference),
        "times": times,
        "times_faster": {peer: ratio(times, peer, "ours") for peer in ("downscale_local_mean", "gaussian and zoom")},
    }
    write_result("resample", "A volume at the model's voxel size, tile by tile, beside whole arrays", figures)


if __name__ == "__main__":
    main()
