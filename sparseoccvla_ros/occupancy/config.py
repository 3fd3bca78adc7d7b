"""Settings of the occupancy encoder; defaults are the `tiny` preset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..core.errors import InvalidInput

BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet50")
STRIDES = (4, 8, 16, 32)

CANDIDATE_CELLS = 1024
"""Image cells of highest worth among which image queries are chosen."""
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_OPUS: dict[str, dict[str, Any]] = {
    "t": {"queries": 600, "points_per_group": 4, "points_per_layer": (1, 4, 16, 32, 64, 128)},
    "s": {"queries": 1200, "points_per_group": 2, "points_per_layer": (1, 4, 8, 16, 32, 64)},
    "m": {"queries": 2400, "points_per_group": 2, "points_per_layer": (1, 2, 4, 8, 16, 32)},
    "l": {"queries": 4800, "points_per_group": 2, "points_per_layer": (1, 2, 4, 8, 16, 16)},
}
_OPUS_V2: dict[str, dict[str, Any]] = {
    "t": {"queries": 600, "points_per_group": 4, "points_per_layer": (8, 16, 32, 64, 128)},
    "s": {"queries": 1200, "points_per_group": 2, "points_per_layer": (4, 8, 16, 32, 64)},
    "m": {"queries": 2400, "points_per_group": 2, "points_per_layer": (2, 4, 8, 16, 32)},
    "l": {"queries": 4800, "points_per_group": 2, "points_per_layer": (1, 2, 4, 8, 16)},
}


@dataclass(frozen=True)
class OccupancyConfig:
    """Settings of image backbone, sparse decoder, temporal memory and post-processing.

    The decoder is that of OPUS (Wang et al., NeurIPS 2024): each query predicts more points from layer to layer. With
    `scale_weight_order`, `unseen_points` and `feature_alignment` set to "compatible" it is numerically equivalent to
    the public code. Raises InvalidInput naming the field when a value is invalid.
    """

    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0, efficientnet_lite1, efficientnet_lite2 or resnet50."""
    backbone_width: int = 64
    """Channels of the ResNet stem, 64 in ResNet-50; ignored by the EfficientNets."""
    pretrained: bool = True
    """Initialise the backbone with the ImageNet weights of its Python package, if installed."""
    backbone_dtype: str = "float32"
    """Of backbone, neck and the layers of the voxel head; the decoder always uses float32. float32; bfloat16
    (autocast); or auto, with which `build_occupancy` chooses bfloat16 where the processor is made for it, and float32
    elsewhere."""
    image_mean: tuple[float, ...] = (127.0, 127.0, 127.0)
    """Subtracted from RGB 0..255."""
    image_std: tuple[float, ...] = (128.0, 128.0, 128.0)
    """Divisor of RGB after mean subtraction."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the feature levels the decoder samples, finest first."""
    neck: str = "depthwise_fpn"
    """fpn (3x3 output convolutions) or depthwise_fpn (3x3 depthwise, then 1x1)."""
    embed_dims: int = 128
    """Channels of features and queries."""
    groups: int = 4
    """Channel groups, each with its own sampling points."""
    frames: int = 2
    """Frames the decoder samples: the present one and frames - 1 past ones."""
    queries: int = 150
    """Queries per scene."""
    image_queries: int = 0
    """Number of queries initialised from image features (image_queries.py); the others start at learned points, as all
    do in OPUS."""
    depth_bins: int = 32
    """Logarithmic depth bins predicted per image cell; 32 bins are 12 % apart, 64 are 6 %."""
    points_per_group: int = 4
    """Sampling points per group and frame."""
    points_per_layer: tuple[int, ...] = (4, 16, 64)
    """Points that each query predicts, per decoder layer; the length is the number of layers."""
    heads: int = 8
    """Heads of the self-attention."""
    ffn_dims: int = 256
    """Hidden width of the feed-forward blocks."""
    mixing_points: int = 16
    """Output points of the adaptive mixing."""
    decoder: str = "opus"
    """opus: every point has a class. opus_v2: points have features, from which a densifier classifies the voxels in and
    around them; sampling points are learned prototypes scaled by the spread of a query's points, plus offsets in
    metres."""
    point_features: int = 32
    """Channels of a point's features; opus_v2 only."""
    densifier_dims: int = 64
    """Channels of the densifier's pooled points and hidden voxels; opus_v2 only."""
    dropout: float = 0.1
    """Dropout of attention weights and feed-forward blocks, in training only."""
    offset_scale: float = 0.5
    """Metres per unit of the point head."""
    scale_weight_order: str = "clean"
    """clean: every group uses its own level weights. compatible: reproduces the mismatch between level weights laid out
    (group, frame) and features laid out (frame, group) with which public OPUS and SparseBEV weights were trained."""
    unseen_points: str = "zero"
    """zero: a point outside every image gets zero features. compatible: it samples the first camera with zero padding,
    so features leak up to one feature pixel beyond its border, as public OPUS weights expect."""
    feature_alignment: str = "clean"
    """clean: pixels map to the feature cells that cover them. compatible: image coordinates 0..W map to feature columns
    0..W_l - 1, as public OPUS weights expect, with an error of up to half a feature pixel at the borders."""
    voxel_head: bool = False
    """Classify voxels from image cells and points (heads/voxel_head.py) instead of voxelising the points; requires
    image_queries, whose head classifies the cells."""
    traffic_lights: bool = False
    """Look for the traffic light in the camera that looks ahead (heads/traffic_light_head.py), to stop at red."""
    class_prior: float = 0.35
    """Initial probability of every class (bias of the class head). OPUS uses 0.01; with the higher value an untrained
    preset outputs some voxels."""
    initial_height: tuple[float, float] = (-0.8, 1.2)
    """Height range [m, base_link] of the initial query points; x and y cover the whole grid. OPUS covers the full
    height, but most occupied voxels are near the ground."""
    initial_spread: float = 1.0
    """Metres by which the point head's initial bias scatters a query's points along each axis; 0 keeps the default
    initialisation of OPUS, where a query's points start almost in one place."""
    history_interval: float = 0.35
    """Minimum seconds between remembered frames; a faster stream only refreshes the present frame. The default is below
    the 0.4 s that sometimes separate nuScenes keyframes."""
    max_gap: float = 1.5
    """Maximum seconds between two frames; a longer gap clears the memory."""
    pose_jump: float = 5.0
    """Metres that the ego may move between two frames in excess of three times its speed times the elapsed time; a
    larger move is a relocation and clears the memory."""
    score_threshold: float = 0.5
    """Class probability above which a point or a densifier's voxel counts as occupied; unused by the voxel head."""
    padding: bool = True
    """Close one-voxel holes by a 3x3x3 morphological closing per class."""
    max_point_distance: float = 3.0
    """Metres from its query's centre beyond which a point is dropped."""

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std", "strides", "points_per_layer", "initial_height"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _choice("backbone", self.backbone, BACKBONES)
        _choice("backbone_dtype", self.backbone_dtype, ("auto", "float32", "bfloat16"))
        _choice("neck", self.neck, ("fpn", "depthwise_fpn"))
        _choice("decoder", self.decoder, ("opus", "opus_v2"))
        _choice("scale_weight_order", self.scale_weight_order, ("compatible", "clean"))
        _choice("unseen_points", self.unseen_points, ("compatible", "zero"))
        _choice("feature_alignment", self.feature_alignment, ("compatible", "clean"))
        for name in ("backbone_width", "embed_dims", "groups", "frames", "queries", "points_per_group", "heads"):
            _positive(name, getattr(self, name))
        for name in ("ffn_dims", "mixing_points", "offset_scale", "max_gap", "pose_jump"):
            _positive(name, getattr(self, name))
        for name in ("max_point_distance", "point_features", "densifier_dims"):
            _positive(name, getattr(self, name))
        for name in ("groups", "heads"):
            if self.embed_dims % getattr(self, name):
                raise InvalidInput(name, f"{getattr(self, name)} does not divide embed_dims {self.embed_dims}")
        if not self.strides or list(self.strides) != sorted(set(self.strides)) or set(self.strides) - set(STRIDES):
            raise InvalidInput("strides", f"want a rising selection of {STRIDES}, got {self.strides}")
        if not self.points_per_layer or min(self.points_per_layer) < 1:
            raise InvalidInput("points_per_layer", f"want positive counts, got {self.points_per_layer}")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise InvalidInput(name, "want three numbers, R, G, B")
        if min(self.image_std) <= 0:
            raise InvalidInput("image_std", "want positive numbers")
        if len(self.initial_height) != 2 or self.initial_height[0] >= self.initial_height[1]:
            raise InvalidInput("initial_height", f"want (low, high), got {self.initial_height}")
        for name in ("class_prior", "score_threshold"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InvalidInput(name, f"want a probability between 0 and 1, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInput("dropout", f"want 0 to below 1, got {self.dropout}")
        if self.depth_bins < 2:
            raise InvalidInput("depth_bins", f"want at least 2, got {self.depth_bins}")
        most = min(self.queries - 1, CANDIDATE_CELLS)
        if not 0 <= self.image_queries <= most:
            raise InvalidInput("image_queries", f"want 0 to {most}, got {self.image_queries}")
        if self.voxel_head and self.decoder == "opus_v2":
            raise InvalidInput("voxel_head", "the densifier of opus_v2 classifies voxels already")
        if self.voxel_head and not self.image_queries:
            raise InvalidInput(
                "voxel_head", "it reads the image cells that image_queries describe: want image_queries > 0"
            )
        if self.initial_spread < 0 or self.history_interval < 0:
            raise InvalidInput("initial_spread" if self.initial_spread < 0 else "history_interval", "is negative")

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.points_per_layer)

    @property
    def mixing_inputs(self) -> int:
        """Input points of the mixing per group: frames x points_per_group."""
        return self.frames * self.points_per_group

    @classmethod
    def opus(cls, variant: str, **changes: Any) -> OccupancyConfig:
        """Returns the published OPUS variant "t", "s", "m" or "l" (ResNet-50, 8 frames, 256x704) with `changes`."""
        _choice("variant", variant, tuple(_OPUS))
        base: dict[str, Any] = {
            "backbone": "resnet50",
            "pretrained": False,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "strides": (4, 8, 16, 32),
            "neck": "fpn",
            "embed_dims": 256,
            "frames": 8,
            "ffn_dims": 512,
            "mixing_points": 32,
            "scale_weight_order": "compatible",
            "unseen_points": "compatible",
            "feature_alignment": "compatible",
            "class_prior": 0.01,
            "initial_height": (-1.0, 5.4),
            "initial_spread": 0.0,
        }
        return cls(**{**base, **_OPUS[variant], **changes})

    @classmethod
    def opus_v2(cls, variant: str, **changes: Any) -> OccupancyConfig:
        """Returns the published OPUS-V2 variant "t", "s", "m" or "l" with `changes`."""
        _choice("variant", variant, tuple(_OPUS_V2))
        version = {"decoder": "opus_v2", "score_threshold": 0.25, **_OPUS_V2[variant]}
        return cls.opus(variant, **{**version, **changes})

    def replace(self, **changes: Any) -> OccupancyConfig:
        """Returns a validated copy with `changes`."""
        return dataclasses.replace(self, **changes)


def _choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(field, f"want one of {', '.join(allowed)}, got {value!r}")


def _positive(field: str, value: float) -> None:
    if not value > 0:
        raise InvalidInput(field, f"want a positive number, got {value}")
