"""The shape of a Mask R-CNN: what its weights are, and how many boxes pass each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cellengine.spec import Output

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
"""residual blocks per stage of each ResNet (He et al. 2016)"""
ROI_LEVELS = 4
"""objects are read from the first four levels of the pyramid; a fifth one only proposes"""


@dataclass(frozen=True, slots=True)
class MaskRCNNConfig:
    """Shape of the network. The defaults are torchvision's `maskrcnn_resnet50_fpn`, but for the classes and RoIAlign.

    Every stage passes a fixed number of boxes, whatever is in the picture: what is missing is filled up with empty
    boxes that a count or a score of 0 marks.
    """

    kind: Literal["mask_rcnn"] = "mask_rcnn"
    channels_in: int = 3
    classes: int = 1
    """kinds of objects, the background not counted"""
    depth: Literal[18, 34, 50, 101] = 50
    """layers of the ResNet"""
    width: int = 64
    """channels of its first stage; each further one has twice as many, and all four times as many from 50 layers on"""
    stem_stride: Literal[2, 4] = 4
    """px between the finest features; 2 leaves out the pooling of the stem, for small objects"""
    pyramid: int = 256
    """channels of the feature pyramid"""
    pyramid_norm: bool = False
    """BatchNorm in the pyramid and the proposals' convolution, for training from random weights"""
    box_features: int = 1024
    """width of the two fully connected layers of the box head"""
    mask_features: int = 256
    """channels of the mask head"""
    anchor_px: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """side of the anchors of each pyramid level, finest first: four or five levels"""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """height over width"""
    peaks: bool = False
    """anchors are candidates only where none of the eight features around scores higher. Many anchors fit one small
    object: without this those of few objects fill the candidates of a crowded picture"""
    candidates: int = 1000
    """best anchors of each level that enter the suppression"""
    proposals: int = 1000
    """boxes that it passes on to the box head"""
    proposal_iou: float = 0.7
    """of two proposals that overlap more, the better one stays"""
    detections: int = 100
    """objects in the answer, at most"""
    detection_iou: float = 0.5
    """of two objects of a class whose boxes overlap more, the better one stays"""
    min_score: float = 0.05
    """worse objects are left out of the answer"""
    canonical_px: float = 224.0
    """objects of this size are read from the third level, of half this size and less from the finest ones"""
    roi_aligned: bool = True
    """pixel centres at half coordinates; torchvision's checkpoints were trained without"""
    suppression_depth: int = 16
    """rounds of the suppression: longest chain of boxes, each doubling the next, that equals the greedy rule"""
    svd_rank: int = 0
    """rank of the box head's layers after truncated singular value decomposition; 0 for whole layers"""

    dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if len(self.anchor_px) not in (ROI_LEVELS, ROI_LEVELS + 1):
            raise ValueError(f"anchor_px has {len(self.anchor_px)} sizes; expected one a pyramid level: 4 or 5.")
        for name in ("candidates", "proposals", "detections", "suppression_depth", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.proposals > self.candidates * len(self.anchor_px):
            raise ValueError(f"{self.proposals} proposals cannot come from {self.candidates} candidates a level.")

    @property
    def strides(self) -> tuple[int, ...]:
        """px between the features of each pyramid level, finest first."""
        return tuple(self.stem_stride * 2**level for level in range(len(self.anchor_px)))

    @property
    def divisor(self) -> tuple[int, int]:
        """What the sides of the input must be multiples of: the coarsest stride."""
        return (self.strides[-1],) * 2

    @property
    def body_channels(self) -> tuple[int, ...]:
        """Channels of the four stages of the ResNet."""
        widest = 4 if self.depth >= 50 else 1
        return tuple(self.width * widest * 2**stage for stage in range(4))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What `MaskRCNN` answers; channels are what stands at each of the `detections` places."""
        return (Output("boxes", 4), Output("scores"), Output("classes"), Output("masks"), Output("count"))

    @property
    def receptive_field(self) -> tuple[int, int]:
        """px on each side of a place whose features the convolutions can draw on, at most.

        A detection depends on this surrounding of its box, and on better boxes that compete with it for a place among
        the candidates: tiled equals whole only while those fit.
        """
        reach, stride = 3, 2  # the stem's 7 x 7 convolution
        if self.stem_stride == 4:
            reach, stride = reach + stride, 4
        for stage, blocks in enumerate(BLOCKS[self.depth]):
            before, stride = stride, stride * (2 if stage else 1)
            per_block = 1 if self.depth >= 50 else 2
            reach += before + stride * (blocks * per_block - 1)
        # top-down: the coarsest level, repeated down to the finest; then a 3 x 3 of the pyramid and of the proposals
        reach += self.strides[ROI_LEVELS - 1] + 2 * self.strides[-1]
        return (reach,) * 2

    @property
    def activation_bytes(self) -> float:
        """Memory per input px for what is alive at once in fp32, of a tile of 512 x 512."""
        fine = self.stem_stride**2
        maps = 4 * self.body_channels[0] + 6 * self.pyramid
        pairs = 3 * self.candidates**2 * len(self.anchor_px)
        samples = max(self.proposals * 14**2, self.detections * 28**2) * self.pyramid
        masks = 4 * self.detections * 14**2 * self.mask_features
        return round(4 * (maps / fine + (max(pairs, samples) + masks) / 512**2))
