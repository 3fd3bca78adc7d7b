"""InvalidInput, raised for input that a stage refuses, and the error codes in logs and docs/troubleshooting.md.

A code stands for what has to be fixed, not for one line of code. It is looked up by the first word of the log line
(e.g. a drop reason), otherwise by the module that raised the error.
"""

from __future__ import annotations

import contextlib
import traceback


class InvalidInput(ValueError):
    """Raised for input that a stage refuses; `field` names the input and `reason` says what is wrong with it.

    Nodes report it in /diagnostics and drop the input; it never ends a node's process.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


WORDS = {
    "SOV01": "no_calibration",
    "SOV02": "calibration_mismatch",
    "SOV03": "mount_unknown",
    "SOV04": "mount_implausible",
    "SOV05": "pose_timeout",
    "SOV06": "pose_too_old",
    "SOV07": "no_twist implausible_motion",
    "SOV08": "missing_camera spread",
    "SOV09": "decode no_image",
    "SOV10": "duplicate late foreign_clock queue_full unmatched clock_backward clock_forward reset overload",
    "SOV41": "braking",
    "SOV42": "stopping",
    "SOV91": "parameter",
}
"""Words per code: drop reasons of camera_sync, why planning or the follower stops, refused parameters."""
MODULES = {
    "SOV11": "camera_sync.calibration",
    "SOV12": "camera_sync.profiles camera_sync.config camera_sync.message_adapter data.bags.rig_on_bag cli.rig",
    "SOV13": "camera_sync.images camera_sync.image_header camera_sync.encodings camera_sync.jpeg_scan",
    "SOV14": "camera_sync core.tf_buffer core.geometry core.motion",
    "SOV20": "ros core",
    "SOV30": "reasoning.serving reasoning.prompts",
    "SOV40": "planning.route_command planning.ego_history",
    "SOV43": "nodes.planning planning.planner planning.trajectory_follower nodes.follower occupancy.encoder",
    "SOV44": "nodes.cockpit view ros.adapters.stack_control",
    "SOV50": "data.bags",
    "SOV51": "data.bags.foxglove",
    "SOV52": "data.nuscenes",
    "SOV53": "data world",
    "SOV60": "runtime.presets occupancy planning reasoning pipeline",
    "SOV61": "occupancy.checkpoints occupancy.backbone planning.anchors reasoning.llm cli.models",
    "SOV62": "runtime",
    "SOV70": "train cli.train cli.train_later",
    "SOV71": "train.recipe",
    "SOV80": "eval",
    "SOV90": "bringup cli",
    "SOV93": "serve",
    "SOV94": "faults",
}
"""Modules and folders below the package per code; the longest matching name decides."""
_BY_WORD = {word: code for code, words in WORDS.items() for word in words.split()}
_BY_MODULE = {name: code for code, names in MODULES.items() for name in names.split()}


def module_code(module: str) -> str:
    """Return the code of a module, e.g. sparseoccvla_ros.data.bags.reader; KeyError if none of `MODULES` matches."""
    name = module.removeprefix("sparseoccvla_ros.")
    while name not in _BY_MODULE:
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(module)
    return _BY_MODULE[name]


def code_of(error: InvalidInput) -> str:
    """Return the code of a caught error; empty if its traceback contains no module of `MODULES`."""
    code = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        # An error raised in core gets the code of its caller: a refused YAML file may be a preset or a profile.
        if not code or not module.startswith("sparseoccvla_ros.core."):
            with contextlib.suppress(KeyError):
                code = module_code(module)
    return code


def format_error(error: InvalidInput) -> str:
    """Return the error's text with its code, as shown in logs, diagnostics and on the terminal."""
    code = code_of(error)
    return f"{error} [{code}]" if code else str(error)


def with_code(word: str, text: str) -> str:
    """Return `word: text [CODE]` for a word of `WORDS`."""
    return f"{word}: {text} [{_BY_WORD[word]}]"
