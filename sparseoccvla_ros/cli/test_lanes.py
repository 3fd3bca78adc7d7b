"""The lanes of ./run test: which tests run, and under which instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import typer

QUICK = ("tests/core", "tests/camera_sync", "tests/ros", "tests/data/bags")
"""Test folders that need neither ROS nor a model."""
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "SSE": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
    "widest": {},
}
"""Environment that limits torch, oneDNN, OpenBLAS, MKL and numpy to an instruction set; "widest" sets no limit."""
THREADS = {"SSE": "1", "AVX2": "2", "widest": "1"}


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest on a lane: --quick, --numeric, --all, or none of them; further arguments are passed to pytest."""
    lanes = [word for word in arguments if word in ("--quick", "--numeric", "--all")]
    rest = [word for word in arguments if word not in lanes]
    if len(lanes) > 1:
        typer.echo(f"error: {' and '.join(lanes)} are different lanes", err=True)
        return 2
    lane = lanes[0] if lanes else ""
    # Tests named explicitly run whatever their marks, without parallel workers.
    named = any(not word.startswith("-") and os.path.exists(word.split("::")[0]) for word in rest)
    if lane == "--numeric":
        return _numeric(rest)
    if lane == "--quick":
        return _pytest("not slow and not ros", [*([] if named else QUICK), *rest])
    if named or "-m" in rest:
        return _pytest("", rest, workers=0)
    failed = _pytest("not slow", rest)
    if lane == "--all":
        # Benchmarks and long runs measure the machine, so they run one at a time.
        failed = _pytest("slow", rest, workers=0) or failed
    return failed


def instruction_sets() -> list[str]:
    """Instruction sets that differ on this processor; without AVX-512, "widest" would be the same as AVX2."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    names = [name for name, flag in (("SSE", "sse4_1"), ("AVX2", "avx2")) if flag in flags]
    return [*names, "widest"] if "avx512f" in flags or "avx2" not in flags else names


def processes() -> int:
    """Number of parallel test processes: at most one per core, one per 4 GB of available memory, and four."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(4, cores, psutil.virtual_memory().available // 2**32))


def _pytest(
    marks: str, rest: Sequence[str], workers: int | None = None, variables: Mapping[str, str] | None = None
) -> int:
    """Run pytest on tests with these marks; returns its exit status. With 0 workers it runs in a single process."""
    count = processes() if workers is None else workers
    # Threads of several processes would compete for the same cores.
    threads = {"OMP_NUM_THREADS": "1"} if count > 1 else {}
    words = [*(["-n", str(count)] if count > 1 else []), *(["-m", marks] if marks else []), *rest]
    return subprocess.call([sys.executable, "-m", "pytest", *words], env={**os.environ, **threads, **(variables or {})})


def _numeric(rest: Sequence[str]) -> int:
    """Run the numeric tests once per instruction set, to find tolerances that hold on one processor only."""
    failed = []
    # Only files with numeric tests: collecting all files would take longer than some of the runs.
    files = sorted(str(p) for p in Path("tests").rglob("test_*.py") if "mark.numeric" in p.read_text())
    for name in instruction_sets():
        variables = INSTRUCTION_SETS[name]
        threads = {"OMP_NUM_THREADS": THREADS[name], "MKL_NUM_THREADS": THREADS[name]}
        typer.echo(f"instructions: {name}, threads: {THREADS[name]}")
        if _pytest("numeric and not slow", [*files, *rest], variables={**threads, **variables}):
            failed.append(name)
    if failed:
        typer.echo(f"error: numeric tests fail with {', '.join(failed)}", err=True)
    return 1 if failed else 0
