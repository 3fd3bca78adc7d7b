"""Navigation command with its source: a topic, a route, or straight on as the default; and target points of a route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import InvalidInput
from ..core.geometry import apply, inverse, points_along
from ..core.types import WAYPOINT_TIMES, Command, CommandSource
from .plan_reasons import PlanReason

MAX_TEXT = 32
"""Maximum characters of a command text; a longer one is rejected without parsing."""
MAX_ROUTE_POINTS = 100_000
LOOKAHEAD = float(WAYPOINT_TIMES[-1])
"""s of driving at the present speed at which the route's lateral offset is evaluated."""
MIN_LOOKAHEAD = 10.0
"""m, minimum lookahead distance."""
MAX_OFFSET = 20.0
"""m from the route beyond which it is ignored."""
TURN_ANGLE = float(np.radians(35.0))
"""rad, change of the route's direction from which an instruction announces a turn instead of a bend."""
INSTRUCTION_REACH = 100.0
"""m ahead of the vehicle that instructions cover."""
MAX_COORDINATE = 1e8
"""m; UTM and Earth-fixed frames stay within 7e6, and squares of larger numbers lose metre precision."""


def parse_command(text: str) -> Command:
    """Parse `left`, `straight` or `right`, ignoring case and surrounding blanks. Raises InvalidInput otherwise."""
    if not isinstance(text, str):
        raise InvalidInput("command", f"want text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise InvalidInput("command", f"is {len(text)} characters long, want at most {MAX_TEXT}")
    try:
        return Command(text.strip().lower())
    except ValueError:
        raise InvalidInput("command", f"want left, straight or right, got {text!r}") from None


@dataclass(frozen=True)
class CommandChoice:
    """Command to plan with; reason: COMMAND_TIMEOUT if the topic command is too old, else None; target_points: those of
    the route if it is the command's source, else None."""

    command: Command
    source: CommandSource
    reason: PlanReason | None = None
    target_points: np.ndarray | None = field(default=None, compare=False)


class RouteCommand:
    """Selects the navigation command from the newest topic command and the route.

    A fresh topic command takes precedence over the route; the default is straight. timeout: s after which a topic
    command is too old; distances: m along the route of the target points. The route is in the fixed frame, so it stays
    valid after a clock jump.
    """

    def __init__(self, timeout: float = 5.0, distances: Sequence[float] = ()) -> None:
        if not (np.isfinite(timeout) and timeout > 0):
            raise InvalidInput("timeout", f"want a positive number of seconds, got {timeout}")
        self.timeout = timeout
        self.distances = tuple(distances)
        self._command: tuple[int, Command] | None = None
        self._route: np.ndarray | None = None

    def set_command(self, stamp_ns: int, command: Command | str) -> None:
        """Set the command received from a topic. Raises InvalidInput for text that is no command.

        Out-of-order commands are ignored, unless more than `timeout` older, i.e. the clock must have jumped back.
        """
        value = command if isinstance(command, Command) else parse_command(command)
        stamp_ns = int(stamp_ns)
        if self._command is None or not 0 < self._command[0] - stamp_ns <= self.timeout * 1e9:
            self._command = (stamp_ns, value)

    def set_route(self, polyline: np.ndarray) -> None:
        """Set the route: float [M, 2] m in the fixed frame, M >= 2, in driving order. Raises InvalidInput("route")."""
        route = np.asarray(polyline, np.float64)
        if route.ndim != 2 or route.shape[1] != 2 or not 2 <= len(route) <= MAX_ROUTE_POINTS:
            raise InvalidInput("route", f"want [2..{MAX_ROUTE_POINTS}, 2], got {list(route.shape)}")
        if not (np.abs(route) <= MAX_COORDINATE).all():
            raise InvalidInput("route", f"holds a number that is not finite, or beyond {MAX_COORDINATE:g} m")
        moves = np.linalg.norm(np.diff(route, axis=0), axis=1) > 1e-6
        route = route[np.concatenate([[True], moves])]
        if len(route) < 2:
            raise InvalidInput("route", "all points are one point")
        self._route = route

    def set_goal(self, pose: np.ndarray, goal: np.ndarray) -> None:
        """Set a straight route from `pose`, float64 [4, 4] ego2fixed, to `goal` [2] m in the fixed frame."""
        goal = np.asarray(goal, np.float64).reshape(-1)[:2]
        if goal.shape != (2,):
            raise InvalidInput("goal", f"want x and y in m, got {len(goal)} numbers")
        self.set_route(np.stack([np.asarray(pose, np.float64)[:2, 3], goal]))

    def instruction(self, pose: np.ndarray) -> str:
        """Returns `route_instruction` of the route, empty if missing or far. pose: float64 [4, 4] ego2fixed."""
        return (route_instruction(self._route, pose) or "") if self._route is not None else ""

    def choose(self, stamp_ns: int, pose: np.ndarray, speed: float) -> CommandChoice:
        """Select the command at a stamp. pose: float64 [4, 4] ego2fixed at the stamp; speed: m/s."""
        fresh = self._command is not None and abs(stamp_ns - self._command[0]) <= self.timeout * 1e9
        if fresh and self._command is not None:
            return CommandChoice(self._command[1], CommandSource.TOPIC)
        if self._route is not None:
            from_route = route_command(self._route, pose, max(MIN_LOOKAHEAD, LOOKAHEAD * abs(speed)))
            if from_route is not None:
                ahead = target_points(self._route, pose, self.distances)
                return CommandChoice(from_route, CommandSource.ROUTE, target_points=ahead)
        if self._command is not None:
            return CommandChoice(Command.STRAIGHT, CommandSource.TIMEOUT, PlanReason.COMMAND_TIMEOUT)
        return CommandChoice(Command.STRAIGHT, CommandSource.DEFAULT)


def route_command(route: np.ndarray, pose: np.ndarray, ahead: float, max_offset: float = MAX_OFFSET) -> Command | None:
    """Returns the command from the lateral offset of the route `ahead` metres on, None when far from the route.

    route: float64 [M, 2] m in the fixed frame; pose: float64 [4, 4] ego2fixed. A turn is an offset of 2 m or more to
    the left or right, as in every public command definition. It is relative to the route's point nearest to the
    vehicle: beside a straight route a vehicle is not told to turn.
    """
    found = _along(route, pose, max_offset)
    if found is None:
        return None
    local, travelled, at = found
    here, there = points_along(local, travelled, np.array([at, at + ahead]))
    return Command.of_offset(there[1] - here[1])


def target_points(route: np.ndarray, pose: np.ndarray, distances: Sequence[float]) -> np.ndarray | None:
    """Returns the points float32 [R, 2] m in base_link that lie `distances` (m) along the route from the vehicle.

    Target points are the usual input of closed-loop planners (Jaeger et al., ICCV 2023, arXiv 2306.07957): they show
    where the lane is that was left. route, pose: as for route_command. Behind its last point the route goes straight
    on. None without distances, and when far from the route.
    """
    found = _along(route, pose) if len(distances) else None
    if found is None:
        return None
    local, travelled, at = found
    return points_along(local, travelled, at + np.asarray(distances, np.float64)).astype(np.float32)


def route_instruction(route: np.ndarray, pose: np.ndarray) -> str | None:
    """Returns a navigation instruction: "turn left in 30 m", "turn right now", "arrive in 20 m", "go straight on".

    route: float64 [M, 2] m in the fixed frame; pose: float64 [4, 4] ego2fixed. A turn is a change of the route's
    direction by TURN_ANGLE within INSTRUCTION_REACH metres, relative to its direction at the vehicle; it begins where
    the change reaches 15 degrees. None when far from the route.
    """
    found = _along(route, pose)
    if found is None:
        return None
    local, travelled, at = found
    reach = min(INSTRUCTION_REACH, float(travelled[-1]) - at)
    if reach < 2.0:
        return "arrive now"
    steps = np.arange(at, at + reach, 1.0)
    points = points_along(local, travelled, steps)
    way = np.diff(points, axis=0)
    heading = np.unwrap(np.arctan2(way[:, 1], way[:, 0]))
    if len(heading):
        bend = heading - heading[0]
        turned = np.flatnonzero(np.abs(bend) >= TURN_ANGLE)
        if len(turned):
            side = np.sign(bend[turned[0]])
            begin = int(np.flatnonzero(side * bend[: turned[0] + 1] >= np.radians(15.0))[0])
            return f"turn {'left' if side > 0 else 'right'} {_in(begin)}"
    return f"arrive {_in(reach)}" if reach < INSTRUCTION_REACH else "go straight on"


def _in(metres: float) -> str:
    return "now" if metres < 7.5 else f"in {5 * round(metres / 5)} m"


def _along(
    route: np.ndarray, pose: np.ndarray, max_offset: float = MAX_OFFSET
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Returns the route in base_link [M, 2], its arc lengths [M] and the vehicle's arc length, None if far from it.

    Segments against the vehicle's heading are used only if no other is within max_offset, to match the right direction
    of a route that passes the vehicle twice.
    """
    local = apply(inverse(pose), np.column_stack([route, np.full(len(route), pose[2, 3])]))[:, :2]
    start, step = local[:-1], np.diff(local, axis=0)
    length = np.linalg.norm(step, axis=1)
    along = np.clip(-(start * step).sum(1) / length**2, 0.0, 1.0)
    distance = np.linalg.norm(start + along[:, None] * step, axis=1)
    same_way = step[:, 0] >= 0
    candidates = np.where(same_way, distance, np.inf) if same_way.any() else distance
    nearest = int(candidates.argmin())
    if candidates[nearest] > max_offset:
        nearest = int(distance.argmin())
    if distance[nearest] > max_offset:
        return None
    travelled = np.concatenate([[0.0], np.cumsum(length)])
    return local, travelled, float(travelled[nearest] + along[nearest] * length[nearest])
