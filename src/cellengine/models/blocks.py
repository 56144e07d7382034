"""Building blocks shared by the networks, in 2D and 3D. No whole-image statistics: a tile answers like the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class ConvBlock(nn.Sequential):
    """`depth` times convolution (kernel 3, padded), BatchNorm, ReLU. Shape (N, C, *spatial) is kept but for C."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, depth: int = 2) -> None:
        layers: list[nn.Module] = []
        for i in range(depth):
            source = channels_in if i == 0 else channels_out
            layers += [
                CONV[dims](source, channels_out, 3, padding=1, bias=False),
                BATCH_NORM[dims](channels_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Up(nn.Module):
    """Learned up-sampling by `stride`, joined with the skip connection, then a ConvBlock."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, stride: Sequence[int], depth: int = 2) -> None:
        super().__init__()
        self.up = CONV_TRANSPOSE[dims](channels_in, channels_out, tuple(stride), tuple(stride))
        self.block = ConvBlock(dims, 2 * channels_out, channels_out, depth)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """`x` (N, C, *coarse) and `skip` (N, channels_out, *fine) to (N, channels_out, *fine)."""
        joined: torch.Tensor = self.block(torch.cat([skip, self.up(x)], dim=1))
        return joined


def recompute(block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """`block(*inputs)`, keeping only the inputs for the backward pass, which runs the block again (Chen et al. 2016).

    BatchNorm's running statistics move once, as without it; the gradient is the same.
    """

    def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still_statistics(block)

    answer: torch.Tensor = checkpoint(block, *inputs, use_reentrant=False, context_fn=passes)
    return answer


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch without moving its running statistics."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
