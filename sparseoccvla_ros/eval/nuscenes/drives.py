"""A nuScenes scene: on-line inputs per keyframe and ground truth (nuScenes, Caesar et al. 2020; Occ3D, Tian et al.
2023; OmniDrive, Wang et al. 2025).

The encoder's memory holds earlier keyframes, 0.5 s apart, as in OPUS's evaluation; the chain receives nothing later
than a keyframe's lidar stamp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import InvalidInput
from ...core.types import HORIZONS, STEP_SECONDS, CameraFrames, Command, CommandSource
from ...data.dataset import COMMANDS
from ...data.nuscenes.dataset import NuscenesImages
from ...data.nuscenes.index import COMMAND_SOURCES, NuscenesIndex
from ...data.nuscenes.labels import load_occ3d, occ3d_file
from ...data.nuscenes.map import Roads
from ...data.nuscenes.omnidrive import read_questions
from ...planning.ego_history import EgoHistory
from ...world.qa.questions import Question
from ..metrics.ray_iou import ORIGINS, lidar_origins
from ..tasks.forecast import SPARSEWORLD_MARGIN, SPARSEWORLD_PAST
from ..tasks.planning_samples import AgentBoxes, Sample

_AHEAD = [round(h / STEP_SECONDS) for h in HORIZONS]


class PreparedHistory(EgoHistory):
    """The planner's ego history at one keyframe, precomputed by `./run data prepare` from records up to its stamp."""

    def __init__(self, index: NuscenesIndex, row: int) -> None:
        super().__init__()
        self._index, self._row = index, row
        self.add(int(index.stamp[row]), index.pose[row], index.twist[row])

    def features(self, stamp_ns: int) -> np.ndarray:
        """As EgoHistory.features. Raises InvalidInput("stamp") unless it is the keyframe's."""
        return self._column("features", stamp_ns)

    def paper_features(self, stamp_ns: int, command: Command) -> np.ndarray:
        """As EgoHistory.paper_features. Raises InvalidInput("stamp") unless it is the keyframe's."""
        out = self._column("paper", stamp_ns)
        out[3 + COMMANDS.index(command)] = 1.0
        return out

    def _column(self, name: str, stamp_ns: int) -> np.ndarray:
        if stamp_ns != int(self._index.stamp[self._row]):
            raise InvalidInput("stamp", f"{stamp_ns} is not the keyframe's {int(self._index.stamp[self._row])}")
        return getattr(self._index, name)[self._row].copy()


class NuscenesDrive:
    """One scene. Indices count its keyframes; all are evaluated, including the first ones with a short history.

    images: images of the index; labels: Occ3D folder or None; split: folder name of OmniDrive's files; origins: maximum
    number of RayIoU ray origins; roads: of the map expansion, or None. Raises InvalidInput("scene").
    """

    def __init__(
        self,
        images: NuscenesImages,
        scene: int,
        labels: Path | None,
        split: str,
        origins: int = ORIGINS,
        roads: Roads | None = None,
    ) -> None:
        self._images, self._index, self._labels, self._split = images, images.index, labels, split
        self._origins, self._roads = origins, roads
        rows = np.flatnonzero(self._index.scene == scene)
        if not len(rows):
            raise InvalidInput("scene", f"{scene} is not one of the index")
        self.first, self._count = int(rows[0]), len(rows)
        self.name = str(self._index.scene_name[scene])
        self._lidar2ego = np.repeat(self._index.lidar2ego[scene][None], len(rows), 0)
        words = str(self._index.description[scene]).lower()
        tags = {tag for tag in ("night", "rain") if tag in words}
        self._tags = frozenset(tags | {str(self._index.location[scene])})

    @property
    def clips(self) -> list[range]:
        """The whole scene is one clip."""
        return [range(self._count)]

    @property
    def presents(self) -> list[int]:
        """Every keyframe."""
        return list(range(self._count))

    def token(self, index: int) -> str:
        """Returns the sample token."""
        return str(self._index.token[self.first + index])

    def frames(self, index: int, epoch: int) -> CameraFrames:
        """Returns the keyframe's six images as a frame set."""
        return self._images.frames(self.first + index, epoch)

    def history(self, index: int) -> EgoHistory:
        """Returns the history prepared from records up to the keyframe."""
        return PreparedHistory(self._index, self.first + index)

    def command(self, index: int) -> tuple[Command, CommandSource]:
        """Returns the command of the CAN bus expansion's baseline route, or else of the extrapolated present motion."""
        row = self.first + index
        source = COMMAND_SOURCES[int(self._index.command_source[row])]
        return COMMANDS[int(self._index.command[row])], CommandSource(source)

    def semantics(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns Occ3D's labels and camera mask, or None without labels."""
        if self._labels is None:
            return None
        file = self._labels / occ3d_file(self.name, self.token(index))
        if not file.is_file():
            return None
        found = load_occ3d(file)
        return found.semantics, found.camera

    def ray_origins(self, index: int) -> np.ndarray:
        """Returns lidar positions of the scene's keyframes in base_link, at most `origins` of them."""
        poses = self._index.pose[self.first : self.first + self._count]
        return lidar_origins(poses, self._lidar2ego, index, self._origins)

    def future(self, index: int) -> np.ndarray:
        """Returns the poses at the next six keyframes; the last pose is repeated past the end of the scene."""
        return self._index.future[self.first + index]

    def future_semantics(self, index: int) -> np.ndarray | None:
        """Returns the labels 2, 4 and 6 keyframes later, or None if one is missing."""
        if index + max(_AHEAD) >= self._count:
            return None
        found = [self.semantics(index + ahead) for ahead in _AHEAD]
        return None if any(f is None for f in found) else np.stack([f[0] for f in found if f is not None])

    def two_plans(self, index: int) -> None:
        """Returns None: a recording has only one future."""
        return

    def in_window(self, index: int) -> bool:
        """Whether 5 keyframes precede it and at least 8, itself included, remain in the scene."""
        return SPARSEWORLD_PAST <= index <= self._count - SPARSEWORLD_MARGIN

    def questions(self, index: int) -> list[Question]:
        """Returns the questions of OmniDrive's files, or the world's own."""
        return read_questions(self._images.root, self._split, self.token(index))

    def surroundings(self, index: int) -> None:
        """Returns None: annotated boxes include neither lights nor junctions."""
        return

    def sample(self, index: int) -> Sample:
        """Returns truth, agents and road for the planning evaluation; the mask is False past the end of the scene."""
        row, data = self.first + index, self._index
        here, centres, yaws, present = data.tracks(row)
        command, source = self.command(index)
        drivable, edges = (None, None) if self._roads is None else self._roads.around(data.pose[row])
        return Sample(
            token=self.token(index),
            scene=self.name,
            truth=np.ascontiguousarray(data.future[row][:, :2, 3]),
            mask=data.future_mask[row],
            agents=AgentBoxes(
                centres, yaws, present,
                data.box_size[here][:, :2].astype(np.float64),
                tuple(str(data.category_name[c]) for c in data.box_category[here]),
                data.box_visibility[here].astype(np.int8),
            ),
            ego_features=data.features[row],
            command=command,
            command_source=source,
            drivable=drivable,
            boundaries=edges,
            tags=self._tags,
        )  # fmt: skip
