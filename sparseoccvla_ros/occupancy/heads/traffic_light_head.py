"""Traffic lights in the camera that looks ahead: colour, and distance to the stop line.

Occupancy has no class for what a traffic light shows, and no query is spent on a lamp of three pixels; without this
head a planner of queries runs red lights. Like the traffic-light branch of InterFuser (Shao et al., CoRL 2022), the
head serves the planner beside the occupancy; as in a heat-map detector (Zhou et al., 2019, arXiv 1904.07850), every
cell of the image says what lit lamp is in it and, from what is around, how far the stop line of that light is.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import InvalidInput
from ...core.onednn import Conv2d
from ...core.types import LIGHT_COLOURS, TrafficLight

STRIDE = 4
"""Pixels per cell."""
METRES = 20.0
"""Metres per unit of the distance output."""
LIKELY = 0.5
"""Probability from which a light is reported."""
AHEAD = 0.5
"""Least cosine between the optical axis and base_link's x axis of a camera that looks ahead."""
WIDTH, DILATIONS = 32, (1, 2, 4, 8, 16)


class TrafficLightHead(nn.Module):
    """Convolutional network on the pixels of one image. The directions of its rays tell height and focal length."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            Conv2d(3, 16, 3, 2, 1), nn.ReLU(True), Conv2d(16, WIDTH - 2, 3, 2, 1), nn.ReLU(True)
        )
        self.context = nn.ModuleList(Conv2d(WIDTH, WIDTH, 3, 1, d, d) for d in DILATIONS)
        self.out = Conv2d(WIDTH, len(LIGHT_COLOURS) + 2, 1)
        with torch.no_grad():
            # Hardly any cell holds a lamp.
            cast("Tensor", self.out.bias)[0] = 5.0

    def forward(self, images: Tensor, ego2img: Tensor) -> tuple[Tensor, Tensor]:
        """Classify the cells of images.

        images: normalised float32 [M, 3, H, W]; ego2img: float32 [M, 4, 4]. Returns logits [M, 4, H / 4, W / 4] of no
        lamp and LIGHT_COLOURS, and distances to the stop line [M, H / 4, W / 4] m, negative past it.
        """
        x = self.pixels(images)
        x = torch.cat([x, _rays(ego2img, *x.shape[-2:])], 1)
        for layer in self.context:
            x = x + F.relu(layer(x))
        out = self.out(x)
        return out[:, :-1], out[:, -1] * METRES

    @torch.inference_mode()
    def look(self, images: Tensor, ego2img: Tensor) -> TrafficLight | None:
        """Returns the surest lit light of one image [1, 3, H, W], None if none is LIKELY.

        Raises InvalidInput("traffic_light", ...) if the output is not finite.
        """
        logits, distance = self(images, ego2img)
        if not bool(logits.isfinite().all() and distance.isfinite().all()):
            raise InvalidInput("traffic_light", "the network's output holds a number that is not finite")
        shares = logits[0].softmax(0).flatten(1)  # [4, cells]
        lit, cell = (1.0 - shares[0]).max(0)
        if float(lit) < LIKELY:
            return None
        colour = int(shares[1:, cell].argmax())
        return TrafficLight(LIGHT_COLOURS[colour], float(lit), float(distance[0].flatten()[cell]))


def ahead_camera(ego2img: np.ndarray, usable: np.ndarray) -> int | None:
    """Returns the index of the usable camera that looks most along base_link's x axis, None if none looks AHEAD.

    ego2img: [N, 4, 4] whose third row is the optical axis; usable: bool [N].
    """
    axis = ego2img[:, 2, 0] / np.maximum(np.linalg.norm(ego2img[:, 2, :3], axis=1), 1e-9)
    axis = np.where(usable, axis, -np.inf)
    best = int(axis.argmax())
    return best if axis[best] >= AHEAD else None


def _rays(ego2img: Tensor, rows: int, columns: int) -> Tensor:
    """Directions of the cells' rays in base_link, left and up per unit of length: [M, 2, rows, columns]."""
    u = (torch.arange(columns, device=ego2img.device) + 0.5) * STRIDE - 0.5
    v = (torch.arange(rows, device=ego2img.device) + 0.5) * STRIDE - 0.5
    pixel = torch.stack([u.expand(rows, columns), v[:, None].expand(rows, columns), u.new_ones(rows, columns)])
    # A missing camera's projection is zero; nobody looks at the result.
    inverse = torch.linalg.inv_ex(ego2img[:, :3, :3]).inverse
    ray = torch.einsum("mij,jrc->mirc", inverse, pixel)
    return F.normalize(ray, dim=1)[:, 1:]
