"""What an exported model says of itself: the spec, kept as JSON in the metadata of its ONNX file.

Only the record and its checks live here; `engine.model_file` reads it out of a file and `export` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from cellengine.errors import ModelError
from cellengine.records import RecordError, from_plain, to_plain

SPEC_VERSION = 1
METADATA_KEY = "cellengine.spec"
INPUT_NAME = "image"

Task = Literal["instances", "semantic", "boundary", "detection", "classification"]
OutputName = Literal["foreground", "distance", "boundary", "classes", "boxes", "scores", "masks", "count"]


@dataclass(frozen=True, slots=True)
class Normalize:
    """How raw intensities become the network's input: one scale per image, measured over the whole image."""

    method: Literal["percentile", "zscore", "minmax", "constant"]
    low: float = 0.0
    """percentile (0..100) that maps to 0; for `constant` the value itself"""
    high: float = 100.0
    """percentile (0..100) that maps to 1; for `constant` the value itself"""
    per_channel: bool = True
    """measure every channel by itself; otherwise all together"""
    clip: tuple[float, float] | None = None
    """the scaled values are clipped to this range, so that a hot pixel cannot dominate"""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the network: probabilities or distances, never logits."""

    name: OutputName
    channels: int = 1


@dataclass(frozen=True, slots=True)
class DistanceWatershed:
    """Foreground threshold, h-maxima of the smoothed distance as seeds, watershed inside the mask."""

    kind: Literal["distance_watershed"] = "distance_watershed"
    threshold: float = 0.5
    smoothing_px: float = 1.0
    h: float = 0.1
    """least height of a seed's maximum above the pass to a higher one"""
    h_per_px: float = 0.0
    """more height for thicker pieces of foreground: so much for each px of the radius (16 px at most)"""
    min_size_px: int = 10
    max_hole_px: int = 64
    """holes of at most this many voxels are filled"""
    min_score: float = 0.0
    """objects whose mean foreground is lower are dropped"""
    connectivity: int = 1


@dataclass(frozen=True, slots=True)
class BoundaryWatershed:
    """Boundary threshold, distance transform, its smoothed maxima as seeds, watershed, optional merging."""

    kind: Literal["boundary_watershed"] = "boundary_watershed"
    threshold: float = 0.4
    smoothing_px: float = 2.0
    min_size_px: int = 50
    merge_below: float | None = None
    """merge neighbouring regions whose shared face has a mean boundary below this"""
    foreground: float = 0.5
    """where the network has an output `foreground`, only voxels above this are labelled"""
    connectivity: int = 1


@dataclass(frozen=True, slots=True)
class Components:
    """Threshold, connected components, growing back the gap that training left between touching cells."""

    kind: Literal["components"] = "components"
    threshold: float = 0.5
    grow_px: int = 1
    min_size_px: int = 10
    connectivity: int = 1


@dataclass(frozen=True, slots=True)
class ArgMax:
    """The most probable class of every voxel."""

    kind: Literal["argmax"] = "argmax"


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes, scores and masks pasted into a label image, the higher score on top."""

    kind: Literal["detections"] = "detections"
    min_score: float = 0.7
    max_iou: float = 0.3


@dataclass(frozen=True, slots=True)
class ClassOf:
    """One class and its score for the whole crop."""

    kind: Literal["class"] = "class"


Decoder = DistanceWatershed | BoundaryWatershed | Components | ArgMax | Detections | ClassOf


def needed_outputs(decoder: Decoder) -> tuple[OutputName, ...]:
    """Outputs that a network must have for this decoder."""
    match decoder:
        case DistanceWatershed():
            return ("foreground", "distance")
        case BoundaryWatershed():
            return ("boundary",)
        case Components():
            return ("foreground",)
        case Detections():
            return ("boxes", "scores", "masks", "count")
        case _:
            return ("classes",)


@dataclass(frozen=True, slots=True)
class Parity:
    """What a precision on a backend kept of the fp32 PyTorch model, measured on real pictures at export."""

    precision: str
    backend: str
    device: str
    passed: bool
    pictures: int
    max_difference: float
    """largest absolute difference of any output value"""
    f1_at_80: float | None = None
    """F1 of the objects at IoU 0.8 against those of fp32 PyTorch"""
    count_difference: float | None = None
    """relative difference of the number of objects"""
    mean_ap_change: float | None = None
    """mean AP on annotated pictures minus that of fp32 PyTorch"""
    dice: float | None = None
    """mean Dice over classes against the maps of fp32 PyTorch"""
    same_class: float | None = None
    """share of crops that get the class they get from fp32 PyTorch"""
    emulated: bool = False
    """the graph was checked where the arithmetic is done in fp32: a device that does it natively must pass the golden
    test (`cellengine doctor`) before it is used"""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything `cellengine infer` needs to know of a model, and where the model comes from."""

    name: str
    task: Task
    axes: str
    """spatial axes of the network: "YX" or "ZYX" """
    channels: tuple[str, ...]
    tile: tuple[int, ...]
    """tile shape to start from, in px per axis; a multiple of `divisor`. Of a classifier the shape of its crops"""
    divisor: tuple[int, ...]
    """input sides must be multiples of this: product of the poolings per axis"""
    receptive_field: tuple[int, ...]
    """px on each side beyond which the input cannot change an output value; the halo of `--halo exact`"""
    halo: tuple[int, ...]
    """px on each side beyond which it changes by less than 1e-3 on real pictures; the halo of `--halo auto`"""
    normalize: Normalize
    outputs: tuple[Output, ...]
    decoder: Decoder
    spec_version: int = SPEC_VERSION
    classes: tuple[str, ...] = ()
    voxel_size_um: tuple[float, ...] | None = None
    """voxel size of the training pictures per axis; pictures of another one are resampled to it. None when the model
    takes pixels as they come"""
    reduce: tuple[float, ...] | None = None
    """for models trained on pictures of unknown voxel size made smaller: every axis is, by such a factor"""
    object_size_px: float = 64.0
    """diameter that hardly any object exceeds (99.9 % of the training objects are below)"""
    activation_bytes: float = 1000.0
    """memory that the network holds per voxel of a tile while it computes in fp32, for the memory plan"""
    parity: tuple[Parity, ...] = ()
    float_layers: tuple[str, ...] = ()
    """of an fp16 or int8 file: the layers that stay in floating point"""
    metrics: dict[str, float] = field(default_factory=dict)
    training_data: str = ""
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dims = len(self.axes)
        for name in ("tile", "divisor", "receptive_field", "halo"):
            if len(getattr(self, name)) != dims:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for the axes {self.axes}.")
        for name in ("voxel_size_um", "reduce"):
            given = getattr(self, name)
            if given is not None and (len(given) != dims or not all(v > 0 for v in given)):
                raise ValueError(f"{name} is {given}; expected {dims} positive numbers for the axes {self.axes}.")
        if self.voxel_size_um is not None and self.reduce is not None:
            raise ValueError("voxel_size_um and reduce are both given; a model is made for one of them.")
        if isinstance(self.decoder, ArgMax | ClassOf):
            scored = next((output.channels for output in self.outputs if output.name == "classes"), 0)
            if not scored or scored != len(self.classes):
                raise ValueError(
                    f"{len(self.classes)} classes are named ({', '.join(self.classes) or 'none'}); "
                    f"expected one for each of the {scored} channels of the output classes."
                )
        if any(t % d for t, d in zip(self.tile, self.divisor, strict=True)):
            raise ValueError(f"the tile {self.tile} is not a multiple of the divisor {self.divisor}.")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions verified on any backend, fp32 first."""
        return tuple(dict.fromkeys(p.precision for p in self.parity if p.passed))

    @property
    def answers_voxels(self) -> bool:
        """Whether there is an answer for every voxel of a tile, so that a tile can be cut anywhere."""
        return self.task in ("instances", "semantic", "boundary")

    def to_json(self) -> str:
        """The text that goes into the model's metadata."""
        return json.dumps(to_plain(self), indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelSpec:
        """Read a spec; `where` names the file in errors. Raises ModelError."""
        try:
            data: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"{where}: its spec is not JSON ({error}); export the model again.") from error
        version = data.get("spec_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or version < 1:
            raise ModelError(f"{where}: its spec has no version; export the model again.")
        if version > SPEC_VERSION:
            raise ModelError(
                f"{where}: spec version {version} is newer than {SPEC_VERSION}, the newest known: update cellengine."
            )
        try:
            return from_plain(cls, data)
        except RecordError as error:
            raise ModelError(f"{where}: bad spec: {error} Export the model again.") from error
