"""Volumes of drawn cells and a network for them, for benchmarks of the whole engine: nobody trained it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from cellengine.spec import DistanceWatershed, ModelSpec, Normalize, Parity

Array = np.ndarray[Any, Any]

GRID_PX = 32
"""one cell in a cube of this side"""


def cells(shape: tuple[int, ...], seed: int = 0) -> Array:
    """uint16: balls of 5 to 7 px on a grid, brightest in the middle, each as bright as it likes."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 100.0)
    for corner in product(*(range(0, n, GRID_PX) for n in shape)):
        box = tuple(slice(c, c + GRID_PX) for c in corner)
        centre, radius, brightness = rng.uniform(8, GRID_PX - 8, 3), rng.uniform(5, 7), rng.uniform(800, 1500)
        away = np.sqrt(sum((at - c) ** 2 for at, c in zip(np.indices(image[box].shape), centre, strict=True)))
        image[box] += np.maximum(0, 1 - (away / radius) ** 2) * brightness
    return image.astype(np.uint16)


def write_unet3d(path: Path) -> Path:
    """The 3D U-Net of the preset `nuclei3d` with random weights, exported as every model is.

    It adds noise to an answer that follows from a voxel's own brightness, so that there are cells to label. Its
    parity is said, not measured: nothing is claimed about what it finds.
    """
    import torch

    from cellengine.engine.golden import golden_input, golden_tile, make_golden
    from cellengine.export.graph import to_onnx, with_metadata
    from cellengine.models import UNetConfig, build
    from cellengine.models.session import TorchSession

    config = UNetConfig(
        dims=3, channels_in=1, widths=(16, 32, 64, 96), strides=((1, 2, 2), (2, 2, 2), (2, 2, 2))
    )  # fmt: skip
    spec = ModelSpec(
        name="unet3d",
        task="instances",
        axes="ZYX",
        channels=("signal",),
        tile=(64, 128, 128),
        divisor=config.divisor,
        receptive_field=config.receptive_field,
        halo=(8, 24, 24),
        normalize=Normalize("percentile", 1.0, 99.9, clip=(-0.5, 2.0)),
        outputs=config.outputs,
        decoder=DistanceWatershed(threshold=0.5, smoothing_px=1.0, h=0.08, min_size_px=60),
        classes=("cell",),
        object_size_px=20.0,
        activation_bytes=config.activation_bytes,
        parity=tuple(
            Parity(precision, backend, "cpu", passed=True, pictures=0, max_difference=0.0)
            for precision, backend in (("fp32", "onnxruntime"), ("fp32", "openvino"), ("bf16", "openvino"))
        ),
    )

    class Cells(torch.nn.Module):
        """Brightness, and the network on top of it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = build(config)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            noise = self.network(image)
            shifts = {"foreground": (12.0, -3.0), "distance": (4.0, -2.0)}
            return {n: torch.sigmoid(g * image + s + 0.5 * noise[n]) for n, (g, s) in shifts.items()}

    torch.manual_seed(0)
    module = Cells().eval()
    tile = golden_tile(spec.divisor)
    with TorchSession(module, spec) as session:
        golden = make_golden(session.run(golden_input(1, tile)), 1, tile)
    path.write_bytes(with_metadata(to_onnx(module, spec), spec, golden))
    return path
