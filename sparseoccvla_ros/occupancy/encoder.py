"""Sparse occupancy encoder: camera images to scene queries.

The decoder is that of OPUS (Wang et al., NeurIPS 2024, arXiv 2409.09350) or OPUS-V2 (jbwang1997/OPUS, 2026).

Shapes: B batch, T frames, N cameras, Q queries, R points of a query, C channels, H_l x W_l cells of level l.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.classes import CAMERAS, FREE
from ..core.errors import InvalidInput
from ..core.types import CameraFrames, SceneQueries, TrafficLight
from ..core.voxels import OCC3D_GRID, SparseVoxels, VoxelGrid
from .backbone import EfficientNetLite, build_backbone, package_weights
from .config import OccupancyConfig
from .decoder import LayerOutput, OccupancyDecoder
from .densifier.network import DensifiedVoxels, Densifier
from .heads.traffic_light_head import TrafficLightHead, ahead_camera
from .heads.voxel_head import VoxelHead
from .neck import FeaturePyramid
from .postprocess import occupied_voxels
from .sampling.views import SceneViews
from .temporal_queue import FrameMemory

PIXEL_MULTIPLE = 32
"""Images are zero-padded at the bottom and right to multiples of this (the coarsest stride)."""


class OccupancyEncoder(nn.Module):
    """Encoder of camera images to queries with semantic points (OPUS decoder, any backbone of OccupancyConfig).

    `encode` is the online path: successive frame sets, with a memory of past features. `forward` is the batch path for
    training and evaluation. Constructed in evaluation mode.

    trained: False until trained weights are loaded; copied to every result. warnings: deviations from the
    configuration, e.g. missing backbone weights. memory: the FrameMemory of the online path.
    """

    pixel_mean: Tensor
    pixel_scale: Tensor

    def __init__(self, config: OccupancyConfig, grid: VoxelGrid = OCC3D_GRID) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.trained = False
        self.warnings: tuple[str, ...] = ()
        self.backbone = build_backbone(config.backbone, config.strides, config.backbone_width)
        self.neck = FeaturePyramid(self.backbone.channels, config.embed_dims, config.neck == "depthwise_fpn")
        self.decoder = OccupancyDecoder(config, grid)
        self.voxel_head = VoxelHead(grid, config.depth_bins) if config.voxel_head else None
        self.traffic_light_head = TrafficLightHead() if config.traffic_lights else None
        self.densifiers: nn.ModuleList | None = None
        if config.decoder == "opus_v2":
            # One per layer, as in the public weights; all but the last are used in training only.
            sizes = config.point_features, config.densifier_dims
            self.densifiers = nn.ModuleList(Densifier(grid, *sizes) for _ in range(config.layers))
        self.register_buffer("pixel_mean", torch.tensor(config.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_scale", 1 / torch.tensor(config.image_std).view(1, 3, 1, 1), persistent=False)
        self.memory = FrameMemory(config)
        if config.pretrained:
            self._load_backbone()
        self.eval()

    def reset(self) -> None:
        """Clear the temporal memory."""
        self.memory.reset()

    def image_features(self, images: Tensor) -> list[Tensor]:
        """Compute the neck's features of single images.

        images: RGB 0..255, uint8 or float [M, H, W, 3]; returns per level float32 [M, C, H' / stride, W' / stride] with
        H', W' = H, W rounded up to multiples of 32.
        """
        x = self.normalised(images)
        with self._autocast(x.device):
            levels = self.neck(self.backbone(x))
        return [level.float() for level in levels]

    def forward(self, images: Tensor, ego2img: Tensor, usable: Tensor | None = None) -> list[LayerOutput]:
        """Batch path: decode all frames at once, the present one first.

        images: RGB uint8 or float [B, T, N, H, W, 3]; ego2img float32 [B, T, N, 4, 4], present base_link to pixels of
        each frame's images; usable bool [B, T, N], default all. Returns one LayerOutput per decoder layer. Raises
        InvalidInput("images" or "ego2img", ...) for another number of frames or a number that is not finite.
        """
        b, t, n, h, w, _ = images.shape
        if t != self.config.frames:
            raise InvalidInput("images", f"want {self.config.frames} frames, got {t}")
        for name, values in (("images", images), ("ego2img", ego2img)):
            if values.is_floating_point() and not bool(values.isfinite().all()):
                raise InvalidInput(name, "holds a number that is not finite")
        levels = self.image_features(images.flatten(0, 2))  # per level [B * T * N, C, H_l, W_l]
        if usable is None:
            usable = torch.ones((b, t, n), dtype=torch.bool, device=images.device)
        return self.decode(SceneViews.of_levels(levels, ego2img.float(), usable, padded_size((h, w))))

    def decode(self, scene: SceneViews) -> list[LayerOutput]:
        """Run the decoder only, in float32 regardless of autocast."""
        with torch.autocast(scene.ego2img.device.type, enabled=False):
            return self.decoder(scene)

    def densify(self, output: LayerOutput, layer: int = -1) -> DensifiedVoxels:
        """Classify the voxels around a layer's points (OPUS-V2 only), in float32 regardless of autocast."""
        assert self.densifiers is not None
        assert output.point_features is not None
        with torch.autocast(output.points.device.type, enabled=False):
            return self.densifiers[layer](output.points.float(), output.point_features.float())

    @torch.inference_mode()
    def encode(self, frames: CameraFrames) -> SceneQueries:
        """Online path: encode the newest frame set, using the memory of earlier ones.

        The memory is cleared on a new epoch, a jump in time or changed cameras (see FrameMemory). Cameras that are
        invalid or entirely black are not sampled and are listed in `missing`. view_features holds the mean of the left
        and right half of every camera at the coarsest level, two rows per camera in the order of CAMERAS, zero for a
        missing one.

        Raises:
            InvalidInput: "images" if no camera is usable, "ego2img" if a usable camera's projection is singular (e.g. a
                focal length of zero), "occupancy" or "traffic_light" if a result is not finite. Each clears the memory.
        """
        if self.training:
            # A call during training must neither update batch statistics nor apply dropout.
            self.eval()
            try:
                return self.encode(frames)
            finally:
                self.train()
        frames = in_view_order(frames)
        usable = self._usable_cameras(frames)  # bool [N]
        device = self.pixel_mean.device
        features = self.image_features(torch.from_numpy(frames.images).to(device))  # per level [N, C, H_l, W_l]
        self.memory.write(frames, usable, features)
        scene = self.memory.views(padded_size(frames.images.shape[1:3]))
        last = self.decode(scene)[-1]

        points = self.decoder.to_metres(last.points[0])  # [Q, R, 3] m
        dense = None if self.densifiers is None else self.densify(last)
        logits = last.logits[0] if dense is None else dense.logits  # [Q, R, 17], or [voxels, 17] with a densifier
        best, labels = logits.max(-1)
        if dense is not None:
            # A point takes the class of its voxel.
            best, labels = best[dense.point_rows[0]], labels[dense.point_rows[0]]  # [Q, R] each
        results = {
            "features": last.features[0],
            "centres": points.mean(1),
            "points": points,
            "scores": best.sigmoid(),
            "view_features": _view_features(features[-1], usable),
        }
        arrays = {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in results.items()}
        try:
            light = self.traffic_light(frames, usable)
        except InvalidInput:
            self.reset()
            raise
        # Check all classes, not only the best: the maximum hides minus infinity.
        finite = bool(logits.isfinite().all()) and all(np.isfinite(a).all() for a in arrays.values())
        if not finite:
            self.reset()
            raise InvalidInput("occupancy", "the network's output holds a number that is not finite")
        return SceneQueries(
            stamp=frames.stamp,
            epoch=frames.epoch,
            ego=frames.ego,
            labels=labels.to(torch.uint8).cpu().numpy(),
            missing=tuple(name for name, use in zip(frames.names, usable, strict=True) if not use),
            trained=self.trained,
            voxels=self.classified_voxels(scene, last, dense=dense),
            traffic_light=light,
            **arrays,
        )

    def _usable_cameras(self, frames: CameraFrames) -> np.ndarray:
        """Returns bool [N]. Clears the memory and raises InvalidInput without any, or if a projection is singular."""
        usable = frames.valid & frames.images.any((1, 2, 3))
        if not usable.any():
            self.reset()
            raise InvalidInput("images", "every camera is missing or black")
        degenerate = singular(frames.ego2img) & usable
        if degenerate.any():
            self.reset()
            name = frames.names[int(degenerate.argmax())]
            raise InvalidInput("ego2img", f"the projection of {name} is singular: no image belongs to such a camera")
        return usable

    @torch.inference_mode()
    def traffic_light(self, frames: CameraFrames, usable: np.ndarray) -> TrafficLight | None:
        """Returns the traffic light seen by the forward camera; None if it sees none or the encoder has no such head.

        usable: bool [N], cameras that may be looked at. Raises InvalidInput("traffic_light", ...) as the head does.
        """
        if self.traffic_light_head is None:
            return None
        ahead = ahead_camera(frames.ego2img, usable)
        if ahead is None:
            return None
        device = self.pixel_mean.device
        image = self.normalised(torch.from_numpy(frames.images[ahead : ahead + 1]).to(device))
        ego2img = torch.from_numpy(frames.ego2img[ahead : ahead + 1]).to(device, torch.float32)
        return self.traffic_light_head.look(image, ego2img)

    @torch.inference_mode()
    def classified_voxels(
        self, scene: SceneViews, last: LayerOutput, dense: DensifiedVoxels | None = None
    ) -> SparseVoxels | None:
        """Returns the first batch element's voxels of voxel head or densifier, None for an encoder without either.

        A voxel's score is the probability that it is occupied, or with a densifier the probability of its class.
        dense: the output of `densify` for `last`, if already computed.
        """
        if self.densifiers is not None:
            dense = dense or self.densify(last)
            return dense.occupied(0, self.config.score_threshold, self.grid)
        if self.voxel_head is None or self.decoder.proposals is None:
            return None
        dtype = torch.bfloat16 if self.config.backbone_dtype == "bfloat16" else torch.float32
        index, logits = self.voxel_head(scene, self.decoder.proposals, last, dtype)  # [voxels], [voxels, 18]
        label = logits.argmax(1)
        occupied = (label != FREE).nonzero()[:, 0]
        index, ascending = index[occupied].sort()
        order = occupied[ascending]  # rows of the occupied voxels, by ascending index
        score = 1.0 - logits[order].softmax(1)[:, FREE]
        where = np.stack(np.unravel_index(index.cpu().numpy(), self.grid.shape), -1).astype(np.int16)
        return SparseVoxels(where, label[order].to(torch.uint8).cpu().numpy(), score.cpu().numpy(), self.grid)

    def early_features(self, images: Tensor, blocks: int) -> list[Tensor]:
        """Run the backbone's stem and first `blocks` blocks (EfficientNetLite.early): float32 [M, C, h, w] each.

        Raises InvalidInput("backbone", ...) for a backbone without this split.
        """
        if not isinstance(self.backbone, EfficientNetLite):
            raise InvalidInput("backbone", f"{self.config.backbone} has no early blocks to keep")
        x = self.normalised(images)
        with self._autocast(x.device):
            return [part.float() for part in self.backbone.early(x, blocks)]

    def late_features(self, parts: list[Tensor], blocks: int) -> list[Tensor]:
        """Complete `image_features` from the output of `early_features` for the same `blocks`."""
        assert isinstance(self.backbone, EfficientNetLite)
        with self._autocast(parts[0].device):
            return [level.float() for level in self.neck(self.backbone.late(parts, blocks))]

    def voxels(self, queries: SceneQueries) -> SparseVoxels:
        """Returns the occupied voxels of a scene (see `postprocess.occupied_voxels`)."""
        return occupied_voxels(queries, self.grid, self.config)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise and pad to PIXEL_MULTIPLE: float32 [M, 3, H', W'], channels last."""
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last, copy=True)
        x = x.sub_(self.pixel_mean).mul_(self.pixel_scale)
        height, width = padded_size(x.shape[-2:])
        if (height, width) != tuple(x.shape[-2:]):
            x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
        return x

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.backbone_dtype == "bfloat16")

    def _load_backbone(self) -> None:
        state = package_weights(self.config.backbone)
        if state is None or not isinstance(self.backbone, EfficientNetLite):
            self.warnings += (f"no package with weights for {self.config.backbone} is installed: random backbone",)
            return
        self.backbone.load_package(state)


def padded_size(size: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    """Round (H, W) up to multiples of PIXEL_MULTIPLE."""
    height, width = (-(-s // PIXEL_MULTIPLE) * PIXEL_MULTIPLE for s in size)
    return height, width


def singular(ego2img: np.ndarray) -> np.ndarray:
    """Returns bool [N], True where a projection [N, 4, 4] is singular: |det| <= 1e-6 x its row norms (3x3 part)."""
    rows = ego2img[:, :3, :3]
    lengths = np.linalg.norm(rows, axis=-1).prod(-1)
    return np.abs(np.linalg.det(rows)) <= 1e-6 * lengths


def in_view_order(frames: CameraFrames) -> CameraFrames:
    """Sort cameras in the order of core.classes.CAMERAS, followed by unknown names in the given order.

    The order decides which camera a point is sampled from where two overlap, so it must not depend on the sender.
    """
    rank = {name: index for index, name in enumerate(CAMERAS)}
    order = sorted(range(len(frames.names)), key=lambda i: rank.get(frames.names[i], len(rank)))
    if order == list(range(len(order))):
        return frames
    return CameraFrames(
        stamp=frames.stamp,
        epoch=frames.epoch,
        names=tuple(frames.names[i] for i in order),
        stamps=frames.stamps[order],
        valid=frames.valid[order],
        images=np.ascontiguousarray(frames.images[order]),
        ego2img=frames.ego2img[order],
        ego=frames.ego,
    )


def _view_features(features: Tensor, usable: np.ndarray) -> Tensor:
    """Returns the means of the left and right half of features [N, C, H, W]: [2 * N, C], 0 for an unusable camera."""
    halves = F.adaptive_avg_pool2d(features, (1, 2))[:, :, 0].transpose(1, 2)  # [N, 2, C]
    unusable = torch.from_numpy(~usable).to(features.device)[:, None, None]
    return halves.masked_fill(unusable, 0.0).flatten(0, 1)
