"""The Python interface: `cellengine.infer` and `cellengine.load_model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from cellengine.engine.backends import open_session
from cellengine.engine.infer import infer_source
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.run import Result
from cellengine.engine.session import Session
from cellengine.io import open_source

Array = np.ndarray[Any, Any]


def load_model(
    model: str | os.PathLike[str] = "nuclei",
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str | None = None,
    max_vram: int | None = None,
) -> Session:
    """Open a model for several calls of `infer`; close it, or use it in a `with` statement.

    `model` is a bundled name or a file. With "auto" the fastest verified combination is taken, as measured here once.
    `max_vram`: bytes of a GPU's memory that it may take.
    Raises ModelError for what is no model and DeviceError for what is not available.
    """
    name = os.fspath(model)
    return open_session(resolve_model(name), device=device, backend=backend, precision=precision, max_vram=max_vram)


def infer(
    image: str | os.PathLike[str] | Array,
    model: str | os.PathLike[str] | Session = "nuclei",
    *,
    axes: str | None = None,
    dataset: str | None = None,
    channel: Sequence[str | int] = (),
    timepoint: int | None = None,
    voxel_size_um: tuple[float, ...] | None = None,
    resample: bool = True,
    tile: tuple[int, ...] | None = None,
    halo: int | Literal["auto", "exact"] = "auto",
    then: str | os.PathLike[str] | Session | None = None,
) -> Result:
    """Label the objects of one image, a file or an array, and measure them.

    `image`: a path, or an array of any shape: (Y, X), (Y, X, 3) uint8 colour, or other with `axes` such as "ZYX".
    `voxel_size_um`: of the image, per spatial axis in Z, Y, X order, where the file does not say or is wrong.
    `resample`: show the model voxels of the size it was trained with; False takes the image's as they are.
    `then`: a classifier for the objects found. The result has `labels` (the image's axes without C; uint32, or uint8
    class numbers of a semantic model) and `objects` (column name -> array); nothing is written.
    """
    options = InferOptions(
        axes=axes,
        dataset=dataset,
        channel=tuple(str(c) for c in channel),
        timepoint=timepoint,
        voxel_size_um=voxel_size_um,
        resample=resample,
        tile=tile,
        halo=halo,
    )
    with open_source(image, axes=axes, dataset=dataset, voxel_size_um=voxel_size_um) as source, ExitStack() as opened:

        def session_of(one: str | os.PathLike[str] | Session) -> Session:
            return opened.enter_context(load_model(one)) if isinstance(one, str | os.PathLike) else one

        cells = None if then is None else session_of(then)
        return infer_source(source, session_of(model), options, then=cells)
