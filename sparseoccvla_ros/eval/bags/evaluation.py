"""./run eval bag: the stack, or the plans that a recording holds, against what was driven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...camera_sync.profiles import Profile, profile
from ...core import geometry
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS, WAYPOINT_TIMES, Command, CommandSource
from ...core.vehicle import NUSCENES_CAR
from ...data.bags.offline_sync import bag_frames
from ...data.bags.reader import BagReader
from ...data.bags.writer import BagWriter, qos
from ...pipeline import SparseOccVLA
from ..report.tables import Block
from .recording import ANNOTATIONS, MARKERS, Drive, Planned, decoded, read_drive, read_plans, read_tracks
from .scores import NAMES, PlanScores, score_plan

COMMAND_TOPICS = ("/sparseoccvla/planning/command",)
COAST = "carry on at the present speed"


@dataclass(frozen=True)
class Request:
    """What is judged: plans of `topic`, or where it is empty those of `preset` from the bag's images; seconds: at most
    so much of the bag (0: all); boxes: MarkerArray of cubes, empty takes /markers/annotations where it is there."""

    bag: Path
    topic: str = ""
    preset: str = "tiny"
    profile: str = ""
    calibration_file: str = ""
    seconds: float = 0.0
    boxes: str = ""
    untrained: bool = False


@dataclass
class BagReport:
    """rows: scores by who planned; plans: what was judged; refused: plans that cannot be scored, by reason; boxes: how
    many were seen."""

    request: Request
    drive: Drive
    rows: dict[str, list[PlanScores]]
    plans: list[Planned]
    refused: Counter[str]
    boxes: int

    @property
    def judged(self) -> str:
        """Who planned, as in `rows`."""
        return next(iter(self.rows))


def evaluate_bag(request: Request, on_progress: Callable[[int], None] = lambda plans: None) -> BagReport:
    """Score every plan after which 3 s of the drive are known.

    Raises:
        InvalidInput: The bag cannot be read, tells no motion, or has neither plans nor images to plan from.
    """
    chosen = profile(request.profile)
    with BagReader(request.bag) as reader:
        drive = read_drive(reader, chosen)
        boxes = request.boxes or _annotations(reader)
        tracks = read_tracks(reader, boxes, drive) if boxes else []
        commands = _commands(reader)
        if request.topic:
            plans, refused = read_plans(reader, request.topic, drive)
        else:
            _check_cameras(reader, chosen)
    if not request.topic:
        plans, refused = _planned_by_stack(request, drive, commands, on_progress)
    if request.seconds:
        last = drive.stamps[0] + round(request.seconds * NANOSECONDS)
        plans = [plan for plan in plans if plan.stamp <= last]
    name = request.topic or f"stack ({request.preset})"
    rows: dict[str, list[PlanScores]] = {name: [], COAST: []}
    kept = []
    for plan in plans:
        scores = score_plan(plan, drive, tracks, NUSCENES_CAR)
        if scores is None:
            refused["less than 3 s of plan or drive follow"] += 1
            continue
        coast = score_plan(_coasting(plan.stamp, drive), drive, tracks, NUSCENES_CAR)
        assert coast is not None
        kept.append(plan)
        rows[name].append(scores)
        rows[COAST].append(coast)
    return BagReport(request, drive, rows, kept, refused, len(tracks))


def _annotations(reader: BagReader) -> str:
    known = reader.topics.get(ANNOTATIONS)
    return ANNOTATIONS if known is not None and known.type == MARKERS and known.count else ""


def _check_cameras(reader: BagReader, chosen: Profile) -> None:
    found = [c for c in chosen.cameras.values() if c.image_topic in reader.topics]
    if not found:
        plans = [name for name, topic in reader.topics.items() if "Traj" in topic.type or topic.type.endswith("/Path")]
        other = f"; it has plans on {', '.join(plans)} (--topic)" if plans else ""
        raise InvalidInput("bag", f"has no image of a camera of profile {chosen.name} (--profile){other}")


def _commands(reader: BagReader) -> tuple[np.ndarray, list[Command]]:
    """Record times int64 [C] and what the route asked for from then on."""
    stamps, words = [], []
    for topic in COMMAND_TOPICS:
        known = reader.topics.get(topic)
        if known is not None and known.type == "std_msgs/msg/String":
            for stamp, message in decoded(reader, [topic]):
                if message.data in set(Command):
                    stamps.append(stamp)
                    words.append(Command(message.data))
    return np.array(stamps, np.int64), words


def _planned_by_stack(
    request: Request, drive: Drive, commands: tuple[np.ndarray, list[Command]], on_progress: Callable[[int], None]
) -> tuple[list[Planned], Counter[str]]:
    model = SparseOccVLA.from_preset(request.preset, untrained=request.untrained)
    if model.planner is None:
        why = "; ".join(model.absent.values()) or "it has none"
        raise InvalidInput("preset", f"{request.preset} cannot plan: {why}")
    plans: list[Planned] = []
    refused = Counter[str]()
    last = drive.stamps[0] + round(request.seconds * NANOSECONDS) if request.seconds else 2**62
    for frames in bag_frames(request.bag, model.preset.image, request.profile, request.calibration_file):
        if frames.stamp > last:
            break
        before = int(np.searchsorted(commands[0], frames.stamp, side="right")) - 1
        given = (commands[1][before], CommandSource.TOPIC) if before >= 0 else (Command.STRAIGHT, CommandSource.DEFAULT)
        try:
            plan = model.step(frames, *given).plan
        except InvalidInput as error:
            refused[str(error)] += 1
            continue
        start = drive.at(np.array([frames.stamp]))[0]
        if plan is None or not len(plan.waypoints):
            refused["no plan: " + ", ".join(plan.reasons if plan is not None else ())] += 1
        elif not np.isfinite(start).all():
            refused["the plan lies outside the recorded drive"] += 1
        else:
            local = np.column_stack([plan.waypoints, plan.heading]).astype(np.float64)
            plans.append(Planned(frames.stamp, np.array(WAYPOINT_TIMES), _placed(start, local)))
        on_progress(len(plans))
    return plans, refused


def _placed(start: np.ndarray, local: np.ndarray) -> np.ndarray:
    here = geometry.planar(*start)
    points = local[:, :2] @ here[:2, :2].T + here[:2, 3]
    return np.column_stack([points, local[:, 2] + start[2]])


def _coasting(stamp: int, drive: Drive) -> Planned:
    """Straight on at the present speed: what every plan has to beat."""
    start, times = drive.at(np.array([stamp]))[0], np.array(WAYPOINT_TIMES)
    speed = np.nan_to_num(drive.speed(stamp))
    local = np.column_stack([speed * times, np.zeros((len(times), 2))])
    return Planned(stamp, times, _placed(start, local))


def table(report: BagReport) -> Block:
    """Means over plans."""
    names = [n for n in NAMES if any(getattr(s, n) is not None for rows in report.rows.values() for s in rows)]
    lines = []
    for who, rows in report.rows.items():
        means = [f"{float(np.mean([getattr(s, name) for s in rows])):.2f}" if rows else "-" for name in names]
        lines.append([who, str(len(rows)), *means])
    notes = [f"{count} plans not scored: {why}" for why, count in report.refused.most_common()]
    notes.append(
        f"{report.boxes} recorded boxes" if report.boxes else "no boxes: nothing is said about collisions and TTC"
    )
    notes.append("distances in m, heading in degrees, accelerations in m/s^2, jerk in m/s^3; the rest: shares of plans")
    notes.append("plans of one drive resemble each other, so no intervals are given")
    return Block("Plans against what was driven", ["who", "plans", *names], lines, notes)


def page(report: BagReport, command: str) -> str:
    """A Markdown page."""
    drive = report.drive
    seconds = (drive.stamps[-1] - drive.stamps[0]) / NANOSECONDS
    way = float(np.hypot(*np.diff(drive.poses[:, :2], axis=0).T).sum())
    facts = [
        f"{report.request.bag.name}: {seconds:.1f} s and {way:.0f} m of {drive.base} in {drive.frame}.",
        "ADE: mean distance over 3 s, every half second; FDE: distance after so many seconds; TTC: no recorded box "
        "would be hit within 0.9 s at the plan's own speed; both leave out what overlaps the vehicle at the start.",
        "Recorded traffic does not react, so these are open-loop scores: they compare planners, they do not tell how "
        "one drives. No map is read, so there is no PDMS or EPDMS.",
        f"Made by `{command}`.",
    ]
    body = "\n".join(f"- {fact}" for fact in facts)
    return f"# Plans of {report.judged}\n\n{body}\n\n{table(report).to_markdown(2)}\n"


def write_result_bag(report: BagReport, path: Path) -> None:
    """A bag with each score as std_msgs/Float64 on /evaluation/NAME, and plan and driven way as nav_msgs/Path.

    Its times are those of the recording, so that both play side by side.
    """
    with BagWriter(path, force=True) as bag:
        for plan, scores in zip(report.plans, report.rows[report.judged], strict=True):
            for name in NAMES:
                value = getattr(scores, name)
                if value is not None:
                    message = bag.construct("std_msgs/msg/Float64", data=float(value))
                    bag.write(f"/evaluation/{name}", message, plan.stamp, qos())
            times = np.asarray(WAYPOINT_TIMES)
            driven = report.drive.at(plan.stamp + np.round(times * NANOSECONDS).astype(np.int64))
            _write_path(bag, "/evaluation/plan", report.drive.frame, plan.stamp, plan.times, plan.poses)
            _write_path(bag, "/evaluation/driven", report.drive.frame, plan.stamp, times, driven)


def _write_path(
    bag: BagWriter, topic: str, frame: str, stamp: int, times: np.ndarray, poses: Sequence[np.ndarray] | np.ndarray
) -> None:
    stamped = [
        bag.construct(
            "geometry_msgs/msg/PoseStamped",
            header=bag.header(stamp + round(t * NANOSECONDS), frame), pose=bag.pose(geometry.planar(*pose)),
        )
        for t, pose in zip(times, poses, strict=True)
    ]  # fmt: skip
    bag.write(topic, bag.construct("nav_msgs/msg/Path", header=bag.header(stamp, frame), poses=stamped), stamp, qos())
