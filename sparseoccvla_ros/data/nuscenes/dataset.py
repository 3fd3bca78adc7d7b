"""Training dataset of nuScenes with Occ3D labels: samples of a prepared index (protocol of data/dataset.py).

Sources: nuScenes (Caesar et al. 2020), Occ3D (Tian et al. 2023). The present base_link of a sample is the ego frame at
the keyframe's lidar stamp, as in Occ3D labels; ego2img accounts for each camera's pose at its own stamp.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from ...camera_sync.config import ImageConfig
from ...camera_sync.images import CompressedImage, ImagePreparer
from ...core import geometry
from ...core.classes import CAMERAS
from ...core.errors import InvalidInput
from ...core.types import CameraFrames, EgoState
from ...core.voxels import OCC3D_GRID
from ..dataset import Sample
from .index import NuscenesIndex
from .labels import load_occ3d, occ3d_file, occ3d_folder

UNKNOWN = 255
NATIVE = (900, 1600)
"""Rows and columns of a nuScenes image."""


class NuscenesImages:
    """Images of index rows, prepared as in camera_sync, and their projection matrices.

    image: size of the prepared images; threads: for decoding and resizing, None for all cores.
    """

    def __init__(self, root: Path, index: NuscenesIndex, image: ImageConfig, threads: int | None = None) -> None:
        self.root, self.index, self.image = root, index, image
        self._preparer = ImagePreparer(image, threads or os.cpu_count())

    def frames(self, row: int, epoch: int) -> CameraFrames:
        """Load a keyframe as a frame set; its stamp and ego pose are the lidar's, as for Occ3D labels and boxes.

        Raises InvalidInput("images") for a missing or damaged file.
        """
        index = self.index
        images, ego2img = self.look([row], index.pose[row])
        return CameraFrames(
            stamp=int(index.stamp[row]),
            epoch=epoch,
            names=CAMERAS,
            stamps=index.camera_stamp[row].astype(np.int64),
            valid=np.ones(len(CAMERAS), bool),
            images=images[0],
            ego2img=ego2img[0],
            ego=EgoState(index.pose[row], index.twist[row], "map"),
        )

    def look(self, rows: list[int], pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Load images uint8 [R, 6, H, W, 3] of rows, and ego2img float64 [R, 6, 4, 4] from the base_link at `pose`."""
        index = self.index
        files = [index.image[r, k].decode() for r in rows for k in range(len(CAMERAS))]
        images = np.empty((len(rows), len(CAMERAS), self.image.height, self.image.width, 3), np.uint8)
        flat = images.reshape(-1, *images.shape[2:])
        jobs = [
            (CompressedImage(_content(self.root / f), "jpeg"), out, None) for f, out in zip(files, flat, strict=True)
        ]
        done = self._preparer.prepare_all(jobs)
        matrices = []
        for k, (ida, file) in enumerate(zip(done, files, strict=True)):
            if isinstance(ida, InvalidInput):
                raise InvalidInput("images", f"{file}: {ida.reason}")
            place = rows[k // len(CAMERAS)], k % len(CAMERAS)
            calibration = index.calibration[place]
            camera2global = index.camera_pose[place] @ index.camera2ego[calibration]
            ego2camera = geometry.inverse(camera2global) @ pose
            matrices.append(geometry.camera_matrix(ida @ index.intrinsics[calibration], ego2camera))
        return images, np.stack(matrices).reshape(len(rows), len(CAMERAS), 4, 4)


class NuscenesSamples:
    """Samples of a split.

    image: size of the images, prepared as in camera_sync, or `whole_images` for augment.ImageAugmentation; frames:
    frames per sample, the present one and the keyframes before it (0.5 s apart; at a scene's start the oldest is
    repeated); most: use at most this many samples, evenly spaced; labels: False without Occ3D labels, marks all voxels
    unknown.

    A sample's future is the ego pose at the next six keyframes, which are 0.40 to 0.60 s apart, as in every published
    protocol; past a scene's end the last pose is repeated (see index.future_mask).

    Raises InvalidInput naming the missing part: the index's split, images (with counts) or labels.
    """

    def __init__(
        self,
        root: Path,
        index: NuscenesIndex,
        split: str,
        image: ImageConfig,
        frames: int = 1,
        most: int | None = None,
        labels: bool = True,
        threads: int | None = None,
    ) -> None:
        if frames < 1:
            raise InvalidInput("frames", f"want at least 1, got {frames}")
        rows = index.rows(split)
        if most is not None and most < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
        self.root, self.index, self.image, self.frames = root, index, image, frames
        self.rows = rows
        """int64 [len]: the row of each sample in the index."""
        used = sorted({r for row in rows for r in index.history(int(row), frames)})
        missing = missing_files(root, (f.decode() for f in index.image[used].ravel()))
        if missing:
            raise InvalidInput("images", f"{_listed(missing)} of {split} are missing below {root}")
        self._labels = occ3d_folder(root) if labels else None
        if labels:
            if self._labels is None:
                raise InvalidInput("occ3d", f"{root} has no label folder; the Occ3D gts archive goes to {root / 'gts'}")
            missing = missing_files(self._labels, (self._label_file(int(row)) for row in rows))
            if missing:
                raise InvalidInput("occ3d", f"{_listed(missing)} of {split} are missing below {self._labels}")
        self._images = NuscenesImages(root, index, image, threads)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Sample:
        """The sample at an index. Raises InvalidInput naming a damaged image or label file."""
        index, row = self.index, int(self.rows[number])
        history = index.history(row, self.frames)
        seen = {r: k for k, r in enumerate(dict.fromkeys(history))}
        images, ego2img = self._images.look(list(seen), index.pose[row])
        places = [seen[r] for r in history]
        semantics, visible = self._truth(row)
        return Sample(
            name=f"{index.scene_name[index.scene[row]]} {index.token[row]}",
            images=images[places],
            ego2img=ego2img[places].astype(np.float32),
            semantics=semantics,
            visible=visible,
            twist=index.twist[row].astype(np.float32),
            command=int(index.command[row]),
            future=index.future[row].astype(np.float32),
        )

    def state(self) -> list[int]:
        """Digest of the index, hash of the selected rows, and number of samples."""
        return [self.index.digest, int(np.bitwise_xor.reduce(self.rows * 2654435761 % 2**31)), len(self.rows)]

    def refresh(self, state: list[int] | None = None) -> None:
        """Does nothing, as samples are never added. Raises InvalidInput("data") if `state` is of other samples."""
        if state is not None and list(state) != self.state():
            raise InvalidInput("data", "the run was started on other samples: another root, version, split or number")

    def _truth(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        if self._labels is None:
            return np.full(OCC3D_GRID.shape, UNKNOWN, np.uint8), np.zeros(OCC3D_GRID.shape, bool)
        labels = load_occ3d(self._labels / self._label_file(row))
        return labels.semantics, labels.camera

    def _label_file(self, row: int) -> str:
        return occ3d_file(str(self.index.scene_name[self.index.scene[row]]), str(self.index.token[row]))


def whole_images(image: ImageConfig, largest: float) -> ImageConfig:
    """Size that keeps the whole 16:9 image, scaled to at least `largest` times the scale of camera_sync."""
    scale = largest * max(image.height / NATIVE[0], image.width / NATIVE[1])
    # A multiple of 16 x 9: nothing is cropped and both axes have the same scale.
    sixteenths = math.ceil(scale * NATIVE[1] / 16 - 1e-9)
    return ImageConfig(9 * sixteenths, 16 * sixteenths)


def missing_files(root: Path, names: Iterable[str]) -> list[str]:
    """Missing files among `names` (paths relative to `root`), sorted; lists each folder once instead of each file."""

    @cache
    def listed(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(root / folder))
        except OSError:
            return frozenset()

    def there(name: str) -> bool:
        folder, _, file = name.rpartition("/")
        # Label files have a folder each: listing it would cost as much.
        return (root / name).is_file() if file == "labels.npz" else file in listed(folder)

    return sorted(name for name in set(names) if not there(name))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput("images", f"{path} cannot be read: {error}") from None


def _listed(missing: list[str]) -> str:
    folders = Counter("/".join(name.split("/")[:2]) for name in missing)
    some = ", ".join(f"{folder} ({count})" for folder, count in sorted(folders.items())[:6])
    return f"{len(missing)} files, such as {missing[0]}, in {some}{' and more' if len(folders) > 6 else ''}"
