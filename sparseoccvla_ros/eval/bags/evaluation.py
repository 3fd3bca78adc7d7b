"""./run eval bag: scores the stack, or recorded plans, against the recorded drive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...camera_sync.profiles import Profile, profile
from ...core.errors import InvalidInput
from ...core.types import NANOSECONDS, WAYPOINT_TIMES, Command, CommandSource
from ...core.vehicle import NUSCENES_CAR
from ...data.bags.drive import Commands, Drive, read_commands, read_drive
from ...data.bags.offline_sync import bag_frames
from ...data.bags.reader import BagReader
from ...data.bags.writer import BagWriter, qos
from ...pipeline import SparseOccVLA
from ..metrics.driving import vehicle as driving
from ..metrics.driving.tracker import global_poses
from ..metrics.driving.vehicle import DT
from ..report.tables import Block
from .lanelets import read_lanelets
from .recording import ANNOTATIONS, AREAS, MARKERS, Planned, Track, read_plans, read_tracks, watched, without_plan
from .scores import NAMES, OUT_OF_ONE, SECONDS, PlanScores, driving_scores, known_for_driving, not_recorded, score_plan
from .surroundings import FUTURE, Motion, Road, read_motion, read_road

COAST = "carry on at the present speed"


@dataclass(frozen=True)
class Request:
    """Evaluation request: plans of `topic` or, if empty, of `preset` run on the bag's images. seconds: maximum duration
    (0: all); boxes: MarkerArray of cubes, empty uses /markers/annotations if present; map_file, map_origin: a Lanelet2
    map, and latitude, longitude of the frame's origin if its points need them; reference: topic of the plans to which
    progress is compared, empty uses the driven path."""

    bag: Path
    topic: str = ""
    preset: str = "tiny"
    profile: str = ""
    calibration_file: str = ""
    seconds: float = 0.0
    boxes: str = ""
    untrained: bool = False
    map_file: Path | None = None
    map_origin: str = ""
    reference: str = ""


@dataclass
class BagReport:
    """rows: scores by planner; plans: the scored plans; refused: plans that cannot be scored, by reason; boxes: number
    of tracks; boxes_problem: why boxes are unusable; missing: moments without a usable plan although 3 s of the drive
    follow; failed: how many of them count 0 in each score, by name; road: whether a map is available."""

    request: Request
    drive: Drive
    rows: dict[str, list[PlanScores]]
    plans: list[Planned]
    refused: Counter[str]
    boxes: int
    boxes_problem: str = ""
    missing: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    road: bool = False

    @property
    def judged(self) -> str:
        """The evaluated planner, a key of `rows`."""
        return next(iter(self.rows))


@dataclass(frozen=True, eq=False)
class Record:
    """Contents of a bag besides the plans. seen: int64 [S] ns, stamps of box messages, including empty ones;
    boxes_problem: why recorded boxes are unusable; road: None without a map; references: plans by stamp to which
    progress is compared."""

    drive: Drive
    motion: Motion
    tracks: list[Track]
    seen: np.ndarray
    boxes_problem: str
    commands: Commands
    road: Road | None
    references: dict[int, Planned]

    def score(self, plan: Planned) -> PlanScores | None:
        """Scores a plan; None if plan or drive end within 3 s."""
        tracks = self.tracks if watched(self.seen, plan.stamp, SECONDS) else []
        scores = score_plan(plan, self.drive, tracks, NUSCENES_CAR)
        if scores is None or not self.whole(plan.stamp):
            return scores
        assert self.road is not None
        reference = self.references.get(plan.stamp)
        found = driving_scores(plan, reference, self.drive, self.motion, self.tracks, self.road, NUSCENES_CAR)
        return replace(
            scores, pdms=found["pdms"], epdms=found["epdms"], epdms_filtered=found["epdms_filtered"]
        )  # fmt: skip

    def failed(self, stamp: int) -> list[str]:
        """Returns the scores in which a moment without a plan counts 0; empty if the drive is unknown there."""
        if not np.isfinite(self.drive.at(np.array([stamp, stamp + round(SECONDS * NANOSECONDS)]))).all():
            return []
        if not_recorded(stamp, self.drive):
            return []
        safety = bool(self.tracks) and watched(self.seen, stamp, SECONDS)
        known = {"no_collision": safety, "ttc": safety, "comfortable": True}
        return [name for name in OUT_OF_ONE if known.get(name, self.whole(stamp))]

    def whole(self, stamp: int) -> bool:
        """Whether PDMS and EPDMS can be computed for a plan at that stamp."""
        told = bool(self.tracks) and watched(self.seen, stamp, DT * (FUTURE - 1))
        return told and self.road is not None and known_for_driving(stamp, self.drive)


def read_record(reader: BagReader, request: Request) -> Record:
    """Reads drive, boxes and map of a bag. Raises InvalidInput if one is unreadable, or the drive is missing."""
    chosen = profile(request.profile)
    drive = read_drive(reader, chosen)
    boxes = request.boxes or _annotations(reader)
    tracks, seen, problem = read_tracks(reader, boxes, drive) if boxes else ([], np.zeros(0, np.int64), "")
    surfaces = read_lanelets(request.map_file, request.map_origin, drive) if request.map_file else None
    references = read_plans(reader, request.reference, drive)[0] if request.reference else []
    motion = read_motion(reader, chosen, drive, driving.Vehicle.of(NUSCENES_CAR))
    return Record(
        drive, motion, tracks, seen, problem, read_commands(reader, drive.clock), read_road(reader, drive, surfaces),
        {plan.stamp: plan for plan in references},
    )  # fmt: skip


def evaluate_bag(request: Request, on_progress: Callable[[int], None] = lambda plans: None) -> BagReport:
    """Scores every plan followed by 3 s of the drive (5 s for PDMS and EPDMS), and constant velocity as baseline.

    Raises:
        InvalidInput: The bag cannot be read, or has no ego motion, or neither plans nor images to plan from.
    """
    with BagReader(request.bag) as reader:
        record = read_record(reader, request)
        if request.topic:
            plans, refused = read_plans(reader, request.topic, record.drive)
        else:
            _check_cameras(reader, profile(request.profile))
    if not request.topic:
        plans, refused = _planned_by_stack(request, record.drive, record.commands, on_progress)
    drive = record.drive
    last = drive.stamps[0] + round(request.seconds * NANOSECONDS) if request.seconds else 2**62
    name = request.topic or f"stack ({request.preset})"
    rows: dict[str, list[PlanScores]] = {name: [], COAST: []}
    refused = [(stamp, why) for stamp, why in refused if stamp <= last]
    kept = []
    for plan in (plan for plan in plans if plan.stamp <= last):
        scores, coast = record.score(plan), record.score(_coasting(plan.stamp, drive))
        if scores is None or coast is None:
            why = not_recorded(plan.stamp, drive) or "less than 3 s of plan or drive follow"
            refused.append((plan.stamp, why))
            continue
        kept.append(plan)
        rows[name].append(scores)
        rows[COAST].append(coast)
    reasons = Counter(why for _, why in refused)
    told = [plan.stamp for plan in plans] + [stamp for stamp, _ in refused]
    # The stack cannot plan before the first images; for other planners the start of the drive counts.
    first = int(drive.stamps[0]) if request.topic else min(told, default=int(drive.stamps[-1]))
    span = first, min(last, int(drive.stamps[-1]))
    failures = _failures(record, plans, [stamp for stamp, _ in refused], kept, span)
    failed = Counter(name for names in failures for name in names)
    return BagReport(
        request, drive, rows, kept, reasons, len(record.tracks), record.boxes_problem, len(failures), failed,
        record.road is not None,
    )  # fmt: skip


def _failures(
    record: Record, plans: Sequence[Planned], refused: Sequence[int], kept: Sequence[Planned],
    span: tuple[int, int],
) -> list[list[str]]:  # fmt: skip
    """Returns, for each moment without a plan between two stamps, the scores in which it counts 0."""
    silent = without_plan([plan.stamp for plan in plans], refused, *span)
    # An empty stop path may carry the stamp of the previous plan: that moment had a plan.
    moments = {stamp for stamp in (*refused, *silent) if stamp <= span[1]} - {plan.stamp for plan in kept}
    return [names for stamp in sorted(moments) if (names := record.failed(stamp))]


def _annotations(reader: BagReader) -> str:
    known = reader.topics.get(ANNOTATIONS)
    return ANNOTATIONS if known is not None and known.type == MARKERS and known.count else ""


def _check_cameras(reader: BagReader, chosen: Profile) -> None:
    found = [c for c in chosen.cameras.values() if c.image_topic in reader.topics]
    if not found:
        plans = [name for name, topic in reader.topics.items() if "Traj" in topic.type or topic.type.endswith("/Path")]
        other = f"; it has plans on {', '.join(plans)} (--topic)" if plans else ""
        raise InvalidInput("bag", f"has no image of a camera of profile {chosen.name} (--profile){other}")


def _planned_by_stack(
    request: Request, drive: Drive, commands: Commands, on_progress: Callable[[int], None]
) -> tuple[list[Planned], list[tuple[int, str]]]:
    model = SparseOccVLA.from_preset(request.preset, untrained=request.untrained)
    if model.planner is None:
        why = "; ".join(model.absent.values()) or "it has none"
        raise InvalidInput("preset", f"{request.preset} cannot plan: {why}")
    plans: list[Planned] = []
    refused: list[tuple[int, str]] = []
    last = drive.stamps[0] + round(request.seconds * NANOSECONDS) if request.seconds else 2**62
    for frames in bag_frames(request.bag, model.preset.image, request.profile, request.calibration_file):
        if frames.stamp > last:
            break
        asked = commands.at(frames.stamp)
        given = (Command.STRAIGHT, CommandSource.DEFAULT) if asked is None else (asked, CommandSource.TOPIC)
        try:
            plan = model.step(frames, *given).plan
        except InvalidInput as error:
            refused.append((frames.stamp, str(error)))
            continue
        start = drive.at(np.array([frames.stamp]))[0]
        if plan is None or not len(plan.waypoints):
            reasons = ", ".join(plan.reasons if plan is not None else ())
            refused.append((frames.stamp, f"no plan: {reasons}"))
        elif not np.isfinite(start).all():
            refused.append((frames.stamp, "the plan lies outside the recorded drive"))
        else:
            local = np.column_stack([plan.waypoints, plan.heading]).astype(np.float64)
            plans.append(Planned(frames.stamp, np.array(WAYPOINT_TIMES), global_poses(start, local)))
        on_progress(len(plans))
    return plans, refused


def _coasting(stamp: int, drive: Drive) -> Planned:
    """Returns the constant-velocity baseline: straight on at the current speed."""
    start, times = drive.at(np.array([stamp]))[0], np.array(WAYPOINT_TIMES)
    speed = np.nan_to_num(drive.speed(stamp))
    local = np.column_stack([speed * times, np.zeros((len(times), 2))])
    return Planned(stamp, times, global_poses(start, local))


def table(report: BagReport) -> Block:
    """Returns the table of mean scores over plans."""
    told = {n for n in NAMES if any(getattr(s, n) is not None for rows in report.rows.values() for s in rows)}
    names = [n for n in NAMES if n in told or report.failed[n]]
    lines = []
    for who, rows in report.rows.items():
        failed, missing = (report.failed, report.missing) if who == report.judged else (Counter[str](), 0)
        lines.append([who, str(len(rows)), str(missing), *(_mean(rows, name, failed[name]) for name in names)])
    notes = [f"{count} plans not scored: {why}" for why, count in report.refused.most_common()]
    nothing = f"no boxes{f' ({why})' if (why := report.boxes_problem) else ''}"
    notes.append(
        f"{report.boxes} recorded boxes" if report.boxes else f"{nothing}: nothing is said about collisions and TTC"
    )
    if report.missing:
        notes.append(
            f"without a plan: {report.missing} moments at which none came, or an empty or unusable one, though the "
            "drive is known; they count 0 in every share and in PDMS and EPDMS, and are in no distance"
        )
    if report.boxes and report.road:
        notes.append(f"PDMS and EPDMS count {report.failed['epdms']} such moments; they need 5 s of the drive")
    elif report.boxes:
        notes.append(f"no map ({AREAS}, or --map): no PDMS and EPDMS")
    notes.append("distances in m, heading in degrees, accelerations in m/s^2, jerk in m/s^3; the rest: shares of plans")
    notes.append("plans of one drive resemble each other, so no intervals are given")
    return Block("Plans against what was driven", ["who", "plans", "without", *names], lines, notes)


def _mean(rows: list[PlanScores], name: str, failed: int) -> str:
    values = [value for s in rows if (value := getattr(s, name)) is not None]
    values += [0.0] * failed
    return f"{float(np.mean(values)):.2f}" if values else "-"


def page(report: BagReport, command: str) -> str:
    """Returns a Markdown page of the report."""
    drive = report.drive
    seconds = (drive.stamps[-1] - drive.stamps[0]) / NANOSECONDS
    way = float(np.hypot(*np.diff(drive.poses[:, :2], axis=0).T).sum())
    facts = [
        f"{report.request.bag.name}: {seconds:.1f} s and {way:.0f} m of {drive.base} in {drive.frame}.",
        "ADE: mean distance over 3 s, every half second; FDE: distance after so many seconds; TTC: no recorded box "
        "would be hit within 0.9 s at the plan's own speed; both leave out what overlaps the vehicle at the start.",
        "Recorded traffic does not react, so these are open-loop scores: they compare planners, they do not tell how "
        "one drives.",
        "PDMS and EPDMS (NAVSIM) take boxes and a map; EPDMS is without EC, progress is measured against "
        f"{report.request.reference or 'what was driven'}; epdms_filtered excuses what the driver failed wholly too.",
        f"Made by `{command}`.",
    ]
    body = "\n".join(f"- {fact}" for fact in facts)
    return f"# Plans of {report.judged}\n\n{body}\n\n{table(report).to_markdown(2)}\n"


def write_result_bag(report: BagReport, path: Path) -> None:
    """Writes a bag with each score as std_msgs/Float64 on /evaluation/NAME, and planned and driven nav_msgs/Path.

    Its times are those of the recording, so both can be played together.
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
            bag.trajectory("/evaluation/plan", report.drive.frame, plan.stamp, plan.times, plan.poses)
            bag.trajectory("/evaluation/driven", report.drive.frame, plan.stamp, times, driven)
