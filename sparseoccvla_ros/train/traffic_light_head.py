"""Fitting the traffic-light head: pixels of the camera that looks ahead, labelled by the world's lit lamps.

The head reads no other part of the encoder, so it can be fitted before or after it, and again for other cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InvalidInput
from ..core.paths import cache_folder
from ..core.types import LIGHT_COLOURS
from ..data.synthetic.scenes import WorldSettings, exposures, load_scene, places, prepared_intrinsics, rig_of
from ..occupancy.encoder import OccupancyEncoder
from ..occupancy.heads.traffic_light_head import STRIDE, TrafficLightHead
from ..world.agents.actors import EGO
from ..world.labels.traffic_light import lit_lamps
from ..world.render.raster import PinholeRays
from ..world.scene import Scene
from .features.synthetic import read_arrays, write_arrays

FURTHEST = 60.0
"""m to the stop line beyond which a lamp is learnt as none, and not counted."""
WITH_LAMP = 2.0
"""How much more often an image with a lit lamp is drawn than one without."""
FOCUS = 2.0
"""Exponent of the focal loss (Lin et al., ICCV 2017)."""
DISTANCE_WEIGHT, SHARP, QUANTILE = 0.4, 4.0, 0.3
"""Weight of the distance per metre at the line, and metres from it at which an error counts half; the quantile that is
learnt: a line that is taken to be further away than it is will be crossed."""
GAIN, ZOOM, SHIFT = (0.8, 1.2), (0.8, 1.3), 0.1
"""Factors drawn for each colour of an image, and for its size; largest shift as a share of the image."""


@dataclass(frozen=True)
class TrafficLightLabels:
    """Cache of the lamps that each scene's images show, one file per seed."""

    world: WorldSettings

    def file(self, item: int) -> Path:
        """Returns the file of a seed."""
        return cache_folder() / "traffic_lights" / self.world.key / f"{item:08d}.safetensors"

    def make(self, item: int) -> None:
        """Write lamps float32 [L, 5]: frame set, colour, column, row [px], distance [m, from base_link]; camera int64
        [1]: slot of the camera that shows them."""
        scene, rig = Scene.generate(item, self.world.seconds), rig_of(item, self.world)
        ahead = max(range(len(rig)), key=lambda i: rig[i].camera2ego[0, 2])
        camera, size = rig[ahead], (self.world.height, self.world.width)
        rows = []
        for i, moments in enumerate(exposures(item, self.world, rig)):
            moment = float(moments[ahead])
            camera2map = scene.ego.at(moment)[0] @ camera.camera2ego
            lamps = lit_lamps(scene, moment, PinholeRays(prepared_intrinsics(camera, *size), camera2map, *size))
            rows += [(i, lamp.colour, lamp.column, lamp.row, lamp.distance + EGO.front_m) for lamp in lamps]
        slot = np.array([places(rig, self.world.cameras)[ahead]], np.int64)
        arrays: dict[str, np.ndarray] = {"lamps": np.array(rows, np.float32).reshape(-1, 5), "camera": slot}
        write_arrays(self.file(item), arrays, {"seed": str(item)})


@dataclass(frozen=True, eq=False)
class TrafficLightSamples:
    """Images uint8 [M, H, W, 3] RGB with ego2img float32 [M, 4, 4] and lamps, M x float32 [L, 4] as in
    TrafficLightLabels without the frame set."""

    images: np.ndarray
    ego2img: np.ndarray
    lamps: list[np.ndarray]

    @classmethod
    def of(cls, labels: TrafficLightLabels, seeds: Sequence[int]) -> TrafficLightSamples:
        """Read the labelled frame sets of seeds; scenes that are not in the world's cache are rendered.

        Raises InvalidInput("seeds", ...) without any.
        """
        if not seeds:
            raise InvalidInput("seeds", "there are none")
        images, ego2img, lamps = [], [], []
        for seed in seeds:
            scene, arrays = load_scene(seed, labels.world), read_arrays(labels.file(seed))
            camera, rows = int(arrays["camera"][0]), arrays["lamps"]
            for i in range(len(scene.time)):
                images.append(scene.image(i, camera))
                ego2img.append(scene.ego2img[i, camera].astype(np.float32))
                lamps.append(rows[rows[:, 0] == i, 1:])
        return cls(np.stack(images), np.stack(ego2img), lamps)


@dataclass(frozen=True)
class TrafficLightSettings:
    """Settings of the fit. learning_rate: its peak."""

    steps: int = 5_000
    batch_size: int = 24
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class TrafficLightScores:
    """Scores on samples. red_found: share of the images with a red light ahead within FURTHEST that are said to show
    one; red_wrong: share of the images without a light of that colour that are; colour: share of the lights found whose
    colour is right; distance: median error of their distance, m."""

    red_found: float
    red_wrong: float
    colour: float
    distance: float


def fit_traffic_light_head(
    encoder: OccupancyEncoder,
    samples: TrafficLightSamples,
    settings: TrafficLightSettings | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> None:
    """Fit `encoder.traffic_light_head` anew; the rest of the encoder is not changed.

    Deterministic per machine for the same data and seed. Raises InvalidInput("traffic_lights", ...) for an encoder
    without the head, or without samples.
    """
    settings = settings or TrafficLightSettings()
    if encoder.traffic_light_head is None or not len(samples.images):
        missing = "the encoder has no such head" if encoder.traffic_light_head is None else "there are no samples"
        raise InvalidInput("traffic_lights", missing)
    rng = np.random.default_rng([seed, 53])
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        head = TrafficLightHead().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    weight = np.array([WITH_LAMP if len(lamps) else 1.0 for lamps in samples.lamps])
    for step in range(settings.steps):
        rows = rng.choice(len(weight), settings.batch_size, p=weight / weight.sum())
        images, ego2img, lamps = _varied(samples, rows, rng)
        logits, distance = head(encoder.normalised(torch.from_numpy(images)), torch.from_numpy(ego2img))
        loss = traffic_light_loss(logits, distance, lamps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            report(f"traffic lights: step {step + 1} of {settings.steps}, loss {loss.item():.3f}")
    encoder.traffic_light_head.load_state_dict(head.state_dict())


def _varied(
    samples: TrafficLightSamples, rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns rows of samples with other colours, size and crop; projections and lamps move with the pixels."""
    images, projections, lamps = [], [], []
    for row in rows:
        image = samples.images[row]
        size = np.array(image.shape[1::-1])
        zoom = rng.uniform(*ZOOM)
        corner = 0.5 * size * (1.0 - zoom) + rng.uniform(-SHIFT, SHIFT, 2) * size
        warp = np.array([[zoom, 0.0, corner[0]], [0.0, zoom, corner[1]], [0.0, 0.0, 1.0]], np.float32)
        moved = cv2.warpAffine(image, warp[:2], size.tolist(), flags=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
        images.append(np.clip(moved * rng.uniform(*GAIN, 3), 0.0, 255.0).astype(np.float32))
        projection = samples.ego2img[row].copy()
        projection[:3] = warp @ projection[:3]
        projections.append(projection)
        found = samples.lamps[row].copy()
        found[:, 1:3] = found[:, 1:3] * zoom + corner
        inside = ((found[:, 1:3] >= 0) & (found[:, 1:3] < size - 0.5)).all(1)
        lamps.append(found[inside])
    return np.stack(images), np.stack(projections), lamps


def traffic_light_loss(logits: Tensor, distance: Tensor, lamps: Sequence[np.ndarray]) -> Tensor:
    """Focal loss of the cells' classes and quantile loss of the distance at cells with a lamp, per lamp.

    logits [M, 4, h, w], distance [M, h, w] m: output of the head; lamps: M x [L, 4]. The cells around a lamp may say
    what they like.
    """
    label = np.zeros(distance.shape, np.int64)
    metres = np.zeros(distance.shape, np.float32)
    for i, found in enumerate(lamps):
        near = found[found[:, 3] < FURTHEST]
        row, column = ((near[:, k] + 0.5).astype(int) // STRIDE for k in (2, 1))
        for r, c in zip(row, column, strict=True):
            around = label[i, max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]
            around[around == 0] = -1
        label[i, row, column], metres[i, row, column] = near[:, 0] + 1, near[:, 3]
    target, there = torch.from_numpy(label), torch.from_numpy(label > 0)
    entropy = F.cross_entropy(logits, target.clamp(min=0), reduction="none")
    focal = (1.0 - (-entropy).exp()) ** FOCUS * entropy
    truth = torch.from_numpy(metres)[there]
    error = truth - distance[there]
    error = torch.maximum(QUANTILE * error, (QUANTILE - 1.0) * error)
    away = DISTANCE_WEIGHT * (error / (1.0 + (truth - EGO.front_m).abs() / SHARP)).sum()
    return (focal[target >= 0].sum() + away) / max(int(there.sum()), 1)


@torch.inference_mode()
def score_traffic_light_head(encoder: OccupancyEncoder, samples: TrafficLightSamples) -> TrafficLightScores:
    """Score the head on samples, each of one image."""
    head = encoder.traffic_light_head
    assert head is not None
    counts = dict.fromkeys(("red", "red_found", "other", "red_wrong", "found", "right"), 0)
    errors = []
    for image, ego2img, lamps in zip(samples.images, samples.ego2img, samples.lamps, strict=True):
        near = lamps[lamps[:, 3] < FURTHEST]
        if len(lamps) and not len(near):
            continue
        light = head.look(encoder.normalised(torch.from_numpy(image[None])), torch.from_numpy(ego2img[None]))
        truth = LIGHT_COLOURS[int(near[0, 0])] if len(near) else None
        says_red = light is not None and light.colour == "red"
        counts["red"] += truth == "red"
        counts["red_found"] += truth == "red" and says_red
        counts["other"] += truth != "red"
        counts["red_wrong"] += truth != "red" and says_red
        if light is not None and truth is not None:
            counts["found"] += 1
            counts["right"] += light.colour == truth
            errors.append(abs(light.distance - float(near[0, 3])))
    return TrafficLightScores(
        counts["red_found"] / max(counts["red"], 1),
        counts["red_wrong"] / max(counts["other"], 1),
        counts["right"] / max(counts["found"], 1),
        float(np.median(errors)) if errors else float("nan"),
    )
