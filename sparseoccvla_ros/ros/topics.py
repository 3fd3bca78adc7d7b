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

OUTPUTS: tuple[Topic, ...] = (
    Topic(
        "frames",
        "sparseoccvla_msgs/msg/CameraFrames",
        "camera_sync",
        "newest",
        "a synchronised set of all cameras, resized",
    ),
    Topic(
        "camera_sync/mosaic",
        "sensor_msgs/msg/Image",
        "camera_sync",
        "newest",
        "the prepared images of a set in one image",
    ),
    Topic(
        "occupancy/ready",
        "std_msgs/msg/Header",
        "occupancy",
        "newest",
        "stamp of the newest set; the next may be decoded",
    ),
    Topic("occupancy/queries", "sparseoccvla_msgs/msg/SceneQueries", "occupancy", "newest", "sparse occupancy queries"),
    Topic(
        "occupancy/points",
        "sensor_msgs/msg/PointCloud2",
        "occupancy",
        "output",
        "occupied voxels: x y z rgb label confidence",
    ),
    Topic(
        "occupancy/markers",
        "visualization_msgs/msg/MarkerArray",
        "occupancy",
        "output",
        "occupied voxels as cubes, throttled",
    ),
    Topic("occupancy/legend", "visualization_msgs/msg/MarkerArray", "occupancy", "output", "class colours, throttled"),
    Topic(
        "occupancy/obstacles",
        "sensor_msgs/msg/PointCloud2",
        "occupancy",
        "output",
        "occupied voxels without the ground",
    ),
    Topic("occupancy/grid", "nav_msgs/msg/OccupancyGrid", "occupancy", "map", "0 drivable, 100 obstacle, -1 unknown"),
    Topic(
        "occupancy/costmap",
        "nav_msgs/msg/OccupancyGrid",
        "occupancy",
        "map",
        "cost by class, 0 road .. 100 obstacle: a mask for Nav2's filters",
    ),
    Topic(
        "reasoning/state",
        "sparseoccvla_msgs/msg/Reasoning",
        "reasoning",
        "newest",
        "reasoning token, anchor scores, forecasts",
    ),
    Topic("reasoning/text", "std_msgs/msg/String", "reasoning", "output", "newest answer or description"),
    Topic(
        "reasoning/text_marker",
        "visualization_msgs/msg/Marker",
        "reasoning",
        "output",
        "newest answer as a marker for RViz",
    ),
    Topic(
        "occupancy/forecast/points",
        "sensor_msgs/msg/PointCloud2",
        "reasoning",
        "output",
        "forecast voxels with their horizon",
    ),
    Topic(
        "occupancy/forecast/markers",
        "visualization_msgs/msg/MarkerArray",
        "reasoning",
        "output",
        "forecast voxels at +1, +2, +3 s as cubes",
    ),
    Topic(
        "occupancy/detections",
        "vision_msgs/msg/Detection3DArray",
        "reasoning",
        "output",
        "boxes around what can move; needs vision_msgs",
    ),
    Topic(
        "occupancy/detections/markers",
        "visualization_msgs/msg/MarkerArray",
        "reasoning",
        "output",
        "boxes around what can move, with velocity from forecasts",
    ),
    Topic(
        "planning/plan",
        "sparseoccvla_msgs/msg/Plan",
        "planning",
        "output",
        "the newest plan with candidates, status and reasons",
    ),
    Topic(
        "planning/path",
        "nav_msgs/msg/Path",
        "planning",
        "output",
        "six poses with stamps in the future; empty means stop",
    ),
    Topic(
        "planning/trajectory",
        "trajectory_msgs/msg/MultiDOFJointTrajectory",
        "planning",
        "output",
        "the path with speeds, accelerations and time from start",
    ),
    Topic(
        "planning/autoware_trajectory",
        "autoware_planning_msgs/msg/Trajectory",
        "planning",
        "output",
        "for Autoware, in the fixed frame; needs its messages",
    ),
    Topic(
        "planning/autoware_candidates",
        "autoware_internal_planning_msgs/msg/CandidateTrajectories",
        "planning",
        "output",
        "every candidate for Autoware's selectors, the chosen one first",
    ),
    Topic(
        "planning/turn_indicators",
        "autoware_vehicle_msgs/msg/TurnIndicatorsCommand",
        "planning",
        "output",
        "for Autoware, by the command",
    ),
    Topic(
        "planning/instruction",
        "std_msgs/msg/String",
        "planning",
        "output",
        "the next turn of the route: turn left in 30 m",
    ),
    Topic(
        "planning/candidates",
        "visualization_msgs/msg/MarkerArray",
        "planning",
        "output",
        "all candidates, coloured by score",
    ),
    Topic(
        "planning/markers",
        "visualization_msgs/msg/MarkerArray",
        "planning",
        "output",
        "the vehicle, with speed, command and state as text",
    ),
    Topic("control/cmd_vel", "geometry_msgs/msg/Twist", "follower", "output", "speed and turn rate along the path"),
    Topic(
        "control/command",
        "ackermann_msgs/msg/AckermannDriveStamped",
        "follower",
        "output",
        "speed, acceleration and steering, with the stamp of the odometry it answers",
    ),
    Topic("simulator/route", "nav_msgs/msg/Path", "simulator", "latched", "the route to be driven"),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "every", "output", "state and reasons, 1 Hz"),
    Topic("/clock", "rosgraph_msgs/msg/Clock", "bag_player", "output", "bag time; the simulator publishes its own"),
)

INPUTS: tuple[Topic, ...] = (
    Topic("/tf", "tf2_msgs/msg/TFMessage", "user", "transforms", "ego pose"),
    Topic("/tf_static", "tf2_msgs/msg/TFMessage", "user", "latched", "camera extrinsics"),
    Topic("/odom", "nav_msgs/msg/Odometry", "user", "sensor", "ego pose and twist; the name comes from the profile"),
    Topic("reasoning/question", "std_msgs/msg/String", "user", "output", "a question about the scene"),
    Topic("planning/command", "std_msgs/msg/String", "user", "output", "left, straight or right"),
    # Volatile, which connects to every reliable publisher: RViz's goal tool and `ros2 topic pub` offer no more.
    Topic("planning/route", "nav_msgs/msg/Path", "user", "output", "a route to follow, in the fixed frame"),
    Topic(
        "planning/goal", "geometry_msgs/msg/PoseStamped", "user", "output", "a goal, from which commands are derived"
    ),
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
