"""The lanes of ./run test: which tests run, and under which instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import typer

QUICK = ("tests/core", "tests/camera_sync", "tests/ros", "tests/data/bags")
"""Rooms whose tests need neither ROS nor a model."""
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "SSE": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "widest": {},
}
"""What torch, oneDNN, OpenBLAS, MKL and numpy may use; "widest" is what this processor has."""
THREADS = {"SSE": "1", "AVX2": "2", "widest": "1"}


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest on a lane: --quick, --numeric, --all, or neither; further arguments go to pytest."""
    lanes = [word for word in arguments if word in ("--quick", "--numeric", "--all")]
    rest = [word for word in arguments if word not in lanes]
    if len(lanes) > 1:
        typer.echo(f"error: {' and '.join(lanes)} are different lanes", err=True)
        return 2
    lane = lanes[0] if lanes else ""
    # A test that is named runs, whatever its lane.
    named = any(not word.startswith("-") and os.path.exists(word.split("::")[0]) for word in rest)
    if lane == "--numeric":
        return _numeric(rest)
    if lane == "--quick":
        rest = ["-m", "not slow and not ros", *([] if named else QUICK), *rest]
    elif not lane and not named and "-m" not in rest:
        rest = ["-m", "not slow", *rest]
    return subprocess.call([sys.executable, "-m", "pytest", *rest])


def _numeric(rest: Sequence[str]) -> int:
    """The numeric tests once per instruction set; a tolerance that holds on one processor only shows here."""
    failed = []
    for name, variables in INSTRUCTION_SETS.items():
        threads = {"OMP_NUM_THREADS": THREADS[name], "MKL_NUM_THREADS": THREADS[name]}
        typer.echo(f"instructions: {name}, threads: {THREADS[name]}")
        command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow", *rest]
        if subprocess.call(command, env={**os.environ, **threads, **variables}):
            failed.append(name)
    if failed:
        typer.echo(f"error: numeric tests fail with {', '.join(failed)}", err=True)
    return 1 if failed else 0
