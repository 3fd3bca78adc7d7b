"""Cached encoder features of recorded drives with the vehicle's own motion as label: samples of stages 2 and 3.

The label is odometry (or tf). Only `future` looks ahead of a frame set; ego features use it and earlier ones, and the
command is from the recorded route, or derived from the present motion if none was recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...camera_sync.config import ImageConfig
from ...camera_sync.profiles import profile
from ...core import geometry
from ...core.errors import InvalidInput
from ...core.paths import cache_folder
from ...core.types import NANOSECONDS, WAYPOINT_TIMES, SceneQueries
from ...data.bags.drive import Drive, RecordClock, read_commands, read_drive
from ...data.bags.offline_sync import bag_frames
from ...data.bags.reader import BagReader
from ...data.dataset import COMMANDS
from ...data.nuscenes.ego_motion import command_of_motion
from ...data.synthetic.qa_cache import QaPair
from ...occupancy.encoder import OccupancyEncoder
from ...planning.ego_history import EgoHistory
from ...planning.plan_words import driving_action
from ...planning.trajectory import motion_of
from .synthetic import file_digest, query_arrays, read_arrays, write_arrays

FORMAT_VERSION = 4
LONGEST_GAP = 0.5
"""s; futures across a longer gap in the recorded motion are not used."""
HELD_OUT = 0.25
"""Share at the end of each drive that is held out for validation if no other bag is given."""
_FUTURE = np.concatenate([[0.0], WAYPOINT_TIMES])


@dataclass(frozen=True)
class Recording:
    """A bag with the name or file of its profile, and a calibration file or ""."""

    bag: Path
    profile: str = ""
    calibration_file: str = ""


@dataclass(frozen=True, eq=False)
class BagFeatures:
    """Feature cache of an encoder for bags; scenes are the recordings, by index.

    image: size of the prepared images; weights: sha256 (hex) of the encoder's file; config: its configuration as JSON.
    """

    recordings: tuple[Recording, ...]
    image: ImageConfig
    weights: str
    config: str

    @classmethod
    def of(
        cls, encoder: OccupancyEncoder, weights: Path, image: ImageConfig, recordings: Sequence[Recording]
    ) -> BagFeatures:
        """Returns the cache of an encoder that was loaded from the file `weights`."""
        return cls(
            tuple(recordings), image, file_digest(weights), json.dumps(asdict(encoder.config), sort_keys=True)
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Hash of the recordings and the encoder."""
        return hashlib.sha256("".join(self._key(r) for r in self.recordings).encode()).hexdigest()[:12]

    def folder(self) -> Path:
        """Returns the folder of the features."""
        return cache_folder() / "features" / "bags"

    def file(self, scene: int) -> Path:
        """Returns the feature file of a recording."""
        return self.folder() / f"{self._key(self.recordings[scene])}.safetensors"

    def name(self, scene: int) -> str:
        """Returns the bag's name, for logs and pictures."""
        return self.recordings[scene].bag.name

    def rows(self, scene: int, last: bool | None = None) -> list[int]:
        """Returns the cached frame sets of a recording, all with a complete future. last: None for all, True for those
        held out at the end, False for those before whose futures do not reach into the held-out part."""
        times = read_arrays(self.file(scene), ("time",))["time"]
        border = times[0] + (1.0 - HELD_OUT) * (times[-1] - times[0])
        chosen = np.ones(len(times), bool) if last is None else times >= border
        if last is False:
            chosen = times < border - WAYPOINT_TIMES[-1]
        return np.flatnonzero(chosen).tolist()

    def prepare(self, encoder: OccupancyEncoder, scenes: Sequence[int]) -> Iterator[int]:
        """Encode the missing recordings, frame set by frame set as online; yields each scene when it is cached.

        Raises:
            InvalidInput: A bag cannot be read, has no motion, or no frame set is followed by 3 s of drive.
        """
        for scene in scenes:
            if not self.file(scene).is_file():
                write_arrays(self.file(scene), self._encoded(encoder, self.recordings[scene]), {})
            yield scene

    def _key(self, recording: Recording) -> str:
        """Returns the cache key of a recording: a hash of its files, profile, calibration and the encoder."""
        path = recording.bag.resolve()
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file()]
        calibration = file_digest(Path(recording.calibration_file)) if recording.calibration_file else ""
        found = [FORMAT_VERSION, seen, repr(profile(recording.profile)), calibration, asdict(self.image)]
        return hashlib.sha256(json.dumps([*found, self.weights, self.config]).encode()).hexdigest()[:16]

    def _encoded(self, encoder: OccupancyEncoder, recording: Recording) -> dict[str, np.ndarray]:
        with BagReader(recording.bag) as reader:
            drive = read_drive(reader, profile(recording.profile))
            commands = read_commands(reader, drive.clock)
        rows: list[dict[str, np.ndarray]] = []
        seen: list[SceneQueries] = []
        left_out = Counter[str]()
        history, epoch = EgoHistory(), None
        encoder.reset()
        for frames in bag_frames(recording.bag, self.image, recording.profile, recording.calibration_file):
            if frames.epoch != epoch:
                encoder.reset()
                history.clear()
                epoch = frames.epoch
            history.add(frames.stamp, frames.ego.pose, frames.ego.twist)
            try:
                queries = encoder.encode(frames)
            except InvalidInput as error:
                left_out[str(error)] += 1
                continue
            future, why = future_of(drive, frames.stamp)
            if future is None:
                left_out[why] += 1
                continue
            asked = commands.at(frames.stamp) or command_of_motion(frames.ego.twist)
            row: dict[str, np.ndarray] = {
                "time": np.array((frames.stamp - drive.stamps[0]) / NANOSECONDS),
                "pose": frames.ego.pose, "twist": frames.ego.twist.astype(np.float32),
                "ego": history.features(frames.stamp), "command": np.array(COMMANDS.index(asked), np.uint8),
                "future": future.astype(np.float32),
            }  # fmt: skip
            rows.append(row)
            seen.append(queries)
        encoder.reset()
        if not rows:
            why = "; ".join(f"{n} frame sets: {text}" for text, n in left_out.most_common()) or "no frame set forms"
            raise InvalidInput("bag", f"{recording.bag} has nothing to learn from: {why}")
        return query_arrays(seen) | {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def future_of(drive: Drive, stamp: int) -> tuple[np.ndarray | None, str]:
    """Returns (float64 [6, 4, 4], base_link at WAYPOINT_TIMES to present base_link, ""), or (None, reason)."""
    stamps = stamp + np.round(_FUTURE * NANOSECONDS).astype(np.int64)
    poses = drive.at(stamps)
    if not np.isfinite(poses).all():
        return None, "less than 3 s of the drive follow"
    if why := drive.broken(int(stamps[0]), int(stamps[-1]), LONGEST_GAP):
        return None, why
    back = geometry.inverse(geometry.planar(*poses[0]))
    return np.stack([back @ geometry.planar(*pose) for pose in poses[1:]]), ""


def missing_of(recording: Recording) -> list[str]:
    """Returns what a bag lacks for training and the fallback, a line each. Raises InvalidInput if it is no bag."""
    chosen, name = profile(recording.profile), recording.bag.name
    with BagReader(recording.bag) as reader:
        kinds = {topic: known.type for topic, known in reader.topics.items() if known.count}
        commands = read_commands(reader, RecordClock())
    lines = [
        f"{name}: no images of camera {camera.name} on {camera.image_topic}: it is black"
        for camera in chosen.cameras.values()
        if camera.image_topic not in kinds
    ]
    if not len(commands.stamps):
        lines.append(f"{name}: no planning/command: the command is the present motion carried on")
    if kinds.get(chosen.odometry_topic) != "nav_msgs/msg/Odometry":
        lines.append(f"{name}: no odometry on {chosen.odometry_topic or 'any topic'}: speeds are differences of poses")
    return lines


class BagQuestions:
    """Questions about a drive that odometry answers: the next driving action."""

    QUESTION = "Name the next driving action in a few words."
    """Worded as in the synthetic world (world/qa/questions.yaml)."""

    def __init__(self, features: BagFeatures, rows: Callable[[int], Sequence[int]]) -> None:
        self.features, self.rows = features, rows

    def read(self, scene: int) -> dict[str, np.ndarray]:
        """Returns {"questions": object array, a list of QaPair per row}."""
        arrays = read_arrays(self.features.file(scene), ("twist", "future", "command"))
        rows = self.rows(scene)
        out = np.empty(len(rows), object)
        for k, row in enumerate(rows):
            speed, path = float(arrays["twist"][row, 0]), arrays["future"][row, :, :2, 3]
            done = motion_of(path, speed)
            turns = COMMANDS[int(arrays["command"][row])].value != "straight"
            answer = driving_action(speed, done.speed, float(done.heading[-1]), turns)
            out[k] = [QaPair(self.QUESTION, f"{answer.capitalize()}.", "text")]
        return {"questions": out}


def trajectories(recordings: Sequence[Recording], every: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Returns waypoints float32 [N, 6, 2] m and commands int64 [N], indices into COMMANDS, every `every` seconds.

    No image is read. Commands are from the recorded route, else from the motion at that time. Raises InvalidInput for a
    bag without motion.
    """
    paths, words = [], []
    for recording in recordings:
        with BagReader(recording.bag) as reader:
            drive = read_drive(reader, profile(recording.profile))
            commands = read_commands(reader, drive.clock)
        for stamp in range(int(drive.stamps[0]), int(drive.stamps[-1]), round(every * NANOSECONDS)):
            future, _ = future_of(drive, stamp)
            if future is not None:
                speed, turn = drive.motion(stamp)
                twist = np.array([speed, 0, 0, 0, 0, turn])
                paths.append(future[:, :2, 3])
                words.append(COMMANDS.index(commands.at(stamp) or command_of_motion(twist)))
    return np.array(paths, np.float32).reshape(-1, len(WAYPOINT_TIMES), 2), np.array(words, np.int64)
