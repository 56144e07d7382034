"""A torch network as a session: it fits the engine's Session protocol without knowing the engine."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cellengine.errors import InputError
from cellengine.spec import ModelSpec

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
"""how pictures and weights lie in memory, by spatial dimensions: convolutions want channels last"""


class TorchSession:
    """`module` (image -> dict of outputs, as the spec names them) in evaluation mode, on the device where it lies.

    bf16 and fp16 are autocast on top of fp32 weights. The module stays the caller's: its weights are read at every
    run, so one session serves a whole training; each run switches to evaluation mode and back. One caller at a time.
    """

    backend = "torch"
    concurrency = 1

    def __init__(self, module: nn.Module, spec: ModelSpec, precision: Literal["fp32", "bf16", "fp16"] = "fp32") -> None:
        self.spec = spec
        self.precision: str = precision
        self._module: nn.Module | None = module
        self._place = next((p.device for p in module.parameters()), torch.device("cpu"))
        self.device = str(self._place)
        self._layout = LAYOUTS[len(spec.axes)]
        self._type = torch.float16 if precision == "fp16" else torch.bfloat16
        self._one_at_a_time = threading.Lock()

    def run(self, batch: NDArray[np.float32], halo: tuple[int, ...] | None = None) -> dict[str, NDArray[np.float32]]:
        """Answer a batch (N, channels, *tile) of float32 with a float32 array per output, or its core in a halo.

        Raises InputError for a batch of another shape, ValueError after `close`.
        """
        spec = self.spec
        sides = batch.shape[2:]
        if (
            batch.ndim != 2 + len(spec.axes)
            or batch.shape[1] != len(spec.channels)
            or batch.dtype != np.float32
            or any(n == 0 or n % d for n, d in zip(sides, spec.divisor, strict=True))
            or batch.shape[0] == 0
        ):
            raise InputError(
                f"Found a batch of {batch.dtype} {batch.shape}; {spec.name} takes float32 (N, {len(spec.channels)}, "
                f"{', '.join(spec.axes)}) with sides that are multiples of {spec.divisor}."
            )
        if halo is not None and not (
            spec.answers_voxels
            and len(halo) == len(sides)
            and all(0 <= 2 * h < n for h, n in zip(halo, sides, strict=True))
        ):
            raise InputError(f"A batch of shape {batch.shape} has no core in a halo of {halo} for {spec.name}.")
        with self._one_at_a_time:
            if self._module is None:
                raise ValueError("The session is closed: make another one.")
            outputs = self._answer(self._module, batch)
        if halo is None:
            return outputs
        core = (slice(None), slice(None), *(slice(h, n - h) for h, n in zip(halo, sides, strict=True)))
        return {name: values[core] for name, values in outputs.items()}

    def _answer(self, module: nn.Module, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        training = [part for part in module.modules() if part.training]
        module.eval()
        try:
            with torch.inference_mode(), torch.autocast(self._place.type, self._type, self.precision != "fp32"):
                image = torch.from_numpy(np.array(batch)).to(self._place, memory_format=self._layout)
                outputs = module(image)
                return {name: np.array(value.float().cpu().numpy(), order="C") for name, value in outputs.items()}
        finally:
            for part in training:  # one by one: frozen parts stay as they were
                part.training = True

    def describe(self) -> dict[str, Any]:
        """Version, device, precision and threads, for run.json."""
        return {
            "backend": self.backend,
            "version": torch.__version__,
            "device": self.device,
            "precision": self.precision,
            "provider": "torch",
            "threads": torch.get_num_threads(),
        }

    def close(self) -> None:
        """Let go of the module, after a running call."""
        with self._one_at_a_time:
            self._module = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
