"""Every topic and the action of the graph: one table for nodes, docs, RViz and tests.

Names without a leading slash are relative to the namespace (default /sparseoccvla) and can be remapped as usual.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMESPACE = "/sparseoccvla"


@dataclass(frozen=True)
class Topic:
    """One topic of the graph.

    node: its publisher ("user" for inputs); type: package/kind/Name; qos: a profile of ros/qos.py; what: description.
    """

    name: str
    type: str
    node: str
    qos: str
    what: str

    @property
    def full_name(self) -> str:
        """Its name, resolved in the default namespace."""
        return self.name if self.name.startswith("/") else f"{NAMESPACE}/{self.name}"

    @property
    def owner(self) -> str:
        """The node that publishes it, or for an input the node that subscribes to it."""
        return READERS.get(self.name, self.node)

    @property
    def file(self) -> str:
        """Source file of that node."""
        return (
            "sparseoccvla_ros/ros/diagnostics.py"
            if self.owner == "every"
            else f"sparseoccvla_ros/nodes/{self.owner}.py"
        )

    @property
    def room(self) -> str:
        """Folder of the core code that produces or consumes the content."""
        rooms = {"every": "ros", "bag_player": "data", "viewer": "view", "follower": "planning", "simulator": "eval"}
        return f"sparseoccvla_ros/{rooms.get(self.owner, self.owner)}/"


READERS = {
    "/tf": "camera_sync",
    "/tf_static": "camera_sync",
    "/odom": "camera_sync",
    "reasoning/question": "reasoning",
    "planning/command": "planning",
    "planning/route": "planning",
    "planning/goal": "planning",
}
"""Subscribing node of each input that comes from outside."""


def _of(node: str, *rows: tuple[str, str, str, str]) -> tuple[Topic, ...]:
    """Returns the topics of a node from (name, package/Name, qos, what)."""
    return tuple(Topic(name, kind.replace("/", "/msg/"), node, qos, what) for name, kind, qos, what in rows)


_MARKERS = "visualization_msgs/MarkerArray"
OUTPUTS: tuple[Topic, ...] = (
    *_of(
        "camera_sync",
        ("frames", "sparseoccvla_msgs/CameraFrames", "newest", "a synchronised set of all cameras, resized"),
        ("camera_sync/mosaic", "sensor_msgs/Image", "newest", "the prepared images of a set in one image"),
    ),
    *_of(
        "occupancy",
        ("occupancy/ready", "std_msgs/Header", "newest", "stamp of the newest set; the next may be decoded"),
        ("occupancy/queries", "sparseoccvla_msgs/SceneQueries", "newest", "sparse occupancy queries"),
        ("occupancy/points", "sensor_msgs/PointCloud2", "output", "occupied voxels: x y z rgb label confidence"),
        ("occupancy/markers", _MARKERS, "output", "occupied voxels as cubes, throttled"),
        ("occupancy/legend", _MARKERS, "output", "class colours, throttled"),
        ("occupancy/obstacles", "sensor_msgs/PointCloud2", "output", "occupied voxels without the ground"),
        ("occupancy/grid", "nav_msgs/OccupancyGrid", "map", "0 drivable, 100 obstacle, -1 unknown"),
        ("occupancy/costmap", "nav_msgs/OccupancyGrid", "map",
         "cost by class, 0 road .. 100 obstacle: a mask for Nav2's filters"),
    ),
    *_of(
        "reasoning",
        ("reasoning/state", "sparseoccvla_msgs/Reasoning", "newest", "reasoning token, anchor scores, forecasts"),
        ("reasoning/text", "std_msgs/String", "output", "newest answer or description"),
        ("reasoning/text_marker", "visualization_msgs/Marker", "output", "newest answer as a marker for RViz"),
        ("occupancy/forecast/points", "sensor_msgs/PointCloud2", "output", "forecast voxels with their horizon"),
        ("occupancy/forecast/markers", _MARKERS, "output", "forecast voxels at +1, +2, +3 s as cubes"),
        ("occupancy/detections", "vision_msgs/Detection3DArray", "output",
         "boxes around what can move; needs vision_msgs"),
        ("occupancy/detections/markers", _MARKERS, "output",
         "boxes around what can move, with velocity from forecasts"),
    ),
    *_of(
        "planning",
        ("planning/plan", "sparseoccvla_msgs/Plan", "output", "the newest plan with candidates, status and reasons"),
        ("planning/path", "nav_msgs/Path", "output", "six poses with stamps in the future; empty means stop"),
        ("planning/trajectory", "trajectory_msgs/MultiDOFJointTrajectory", "output",
         "the path with speeds, accelerations and time from start"),
        ("planning/autoware_trajectory", "autoware_planning_msgs/Trajectory", "output",
         "for Autoware, in the fixed frame; needs its messages"),
        ("planning/autoware_candidates", "autoware_internal_planning_msgs/CandidateTrajectories", "output",
         "every candidate for Autoware's selectors, the chosen one first"),
        ("planning/turn_indicators", "autoware_vehicle_msgs/TurnIndicatorsCommand", "output",
         "for Autoware, by the command"),
        ("planning/instruction", "std_msgs/String", "output", "the next turn of the route: turn left in 30 m"),
        ("planning/candidates", _MARKERS, "output", "all candidates, coloured by score"),
        ("planning/markers", _MARKERS, "output", "the vehicle, with speed, command and state as text"),
    ),
    *_of(
        "follower",
        ("control/cmd_vel", "geometry_msgs/Twist", "output", "speed and turn rate along the path"),
        ("control/command", "ackermann_msgs/AckermannDriveStamped", "output",
         "speed, acceleration and steering, with the stamp of the odometry it answers"),
    ),
    *_of("simulator", ("simulator/route", "nav_msgs/Path", "latched", "the route to be driven")),
    *_of("every", ("/diagnostics", "diagnostic_msgs/DiagnosticArray", "output", "state and reasons, 1 Hz")),
    *_of("bag_player", ("/clock", "rosgraph_msgs/Clock", "output", "bag time; the simulator publishes its own")),
)  # fmt: skip

INPUTS = _of(
    "user",
    ("/tf", "tf2_msgs/TFMessage", "transforms", "ego pose"),
    ("/tf_static", "tf2_msgs/TFMessage", "latched", "camera extrinsics"),
    ("/odom", "nav_msgs/Odometry", "sensor", "ego pose and twist; the name comes from the profile"),
    ("reasoning/question", "std_msgs/String", "output", "a question about the scene"),
    ("planning/command", "std_msgs/String", "output", "left, straight or right"),
    # Volatile, which connects to every reliable publisher: RViz's goal tool and `ros2 topic pub` offer no more.
    ("planning/route", "nav_msgs/Path", "output", "a route to follow, in the fixed frame"),
    ("planning/goal", "geometry_msgs/PoseStamped", "output", "a goal, from which commands are derived"),
)

TOPICS: tuple[Topic, ...] = OUTPUTS + INPUTS
OPTIONAL_PACKAGES = (
    "vision_msgs",
    "autoware_planning_msgs",
    "autoware_vehicle_msgs",
    "autoware_internal_planning_msgs",
)
"""Message packages of other stacks; their topics are published only if installed (`optional_output`)."""
ACTION = "reasoning/ask"
"""AskScene action of the reasoning node."""

BY_NAME = {topic.name: topic for topic in TOPICS}


def markdown() -> str:
    """Return the topic table of the README."""
    lines = ["| topic | message | node | core | what |", "|---|---|---|---|---|"]
    for topic in TOPICS:
        direction = "reads" if topic.name in READERS else "all nodes" if topic.owner == "every" else "publishes"
        node = (
            f"[{topic.owner}]({topic.file}) {direction}" if topic.owner != "every" else f"[{direction}]({topic.file})"
        )
        kind = topic.type.replace("/msg/", "/")
        lines.append(f"| `{topic.name}` | {kind} | {node} | [{topic.room}]({topic.room}) | {topic.what} |")
    return "\n".join(lines) + "\n"
