"""Trajectory anchors: 3 commands x 6 modes by k-means, their file format, and a command line to write it.

The shape is that of SparseDrive (Sun et al., arXiv 2405.19620) and of DiffusionDrive's nuScenes branch.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InvalidInput
from ..core.files import read_npz
from ..core.types import STEPS, Command, check_array
from . import anchor_presets

COMMAND_ORDER: tuple[Command, ...] = (Command.LEFT, Command.STRAIGHT, Command.RIGHT)
"""Order of the first axis of every anchor array."""
MODES = 6
FRAME = "base_link"
FORMAT_VERSION = 1
STANDSTILL = 1.0
"""m of final forward distance below which an anchor counts as standing."""
_STRAIGHT = COMMAND_ORDER.index(Command.STRAIGHT)


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """Trajectory anchors with their cluster sizes.

    array: float32 [3, 6, 6, 2], cumulative waypoints in metres in `frame`, first axis in COMMAND_ORDER, modes from
    short to long; counts: int64 [3, 6], trajectories per cluster; frame: always base_link. Raises InvalidInput for a
    wrong shape, a number that is not finite, another frame, or no standing anchor among the straight ones.
    """

    array: np.ndarray
    counts: np.ndarray
    frame: str = FRAME

    def __post_init__(self) -> None:
        check_array("anchors.array", self.array, np.float32, (len(COMMAND_ORDER), MODES, STEPS, 2))
        check_array("anchors.counts", self.counts, np.int64, (len(COMMAND_ORDER), MODES))
        if self.frame != FRAME:
            raise InvalidInput("anchors.frame", f"want {FRAME}, got {self.frame!r}")
        if (np.abs(self.array[_STRAIGHT, :, -1, 0]) >= STANDSTILL).all():
            raise InvalidInput("anchors.array", "no straight anchor stands still")

    @property
    def flat(self) -> np.ndarray:
        """Flat view, float32 [18, 6, 2]: left modes, straight modes, right modes."""
        return self.array.reshape(-1, STEPS, 2)

    @property
    def deltas(self) -> np.ndarray:
        """Steps float32 [18, 6, 2] in m per 0.5 s; the first is the first waypoint."""
        return np.diff(self.flat, axis=1, prepend=np.float32(0.0))

    @property
    def sha256(self) -> str:
        """Hex digest of frame, command order and `array` (not `counts`)."""
        digest = hashlib.sha256()
        digest.update(f"{self.frame}|{','.join(c.value for c in COMMAND_ORDER)}|".encode())
        digest.update(np.ascontiguousarray(self.array, "<f4").tobytes())
        return digest.hexdigest()

    def group(self, command: Command) -> np.ndarray:
        """Returns bool [18], True for the six anchors of a command."""
        return np.repeat([c is command for c in COMMAND_ORDER], MODES)

    def save(self, path: str | Path) -> None:
        """Write an .npz of plain arrays; equal anchors give identical bytes."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            np.savez(
                file,
                format_version=np.int64(FORMAT_VERSION),
                array=self.array,
                counts=self.counts,
                frame=np.array(self.frame),
                commands=np.array([c.value for c in COMMAND_ORDER]),
                sha256=np.array(self.sha256),
            )

    @classmethod
    def load(cls, path: str | Path) -> AnchorSet:
        """Read a file written by `save`, without unpickling. Raises InvalidInput naming the invalid entry."""
        content = read_npz(
            Path(path), "anchors", ("format_version", "array", "counts", "frame", "commands", "sha256"), limit=2**20
        )
        if int(content["format_version"]) != FORMAT_VERSION:
            raise InvalidInput("anchors.format_version", f"want {FORMAT_VERSION}, got {content['format_version']}")
        order = [str(name) for name in content["commands"]]
        if order != [c.value for c in COMMAND_ORDER]:
            raise InvalidInput("anchors.commands", f"want left, straight, right; got {', '.join(order)}")
        anchors = cls(content["array"], content["counts"], str(content["frame"]))
        if anchors.sha256 != str(content["sha256"]):
            raise InvalidInput("anchors.sha256", "the numbers are not the ones that were written")
        return anchors


def fit_anchors(
    trajectories: np.ndarray,
    commands: np.ndarray,
    seed: int = 0,
    starts: int = 10,
    standing: tuple[Command, ...] = (Command.STRAIGHT,),
) -> AnchorSet:
    """Fit anchors to recorded or sampled trajectories: k-means per command on the 12 flattened coordinates.

    trajectories: float [N, 6, 2] m, cumulative, base_link; commands: int [N], index into COMMAND_ORDER; starts: k-means
    restarts; standing: commands that must have a standing anchor. All commands use the same seed, and modes are
    ordered by path length, so mirrored data give mirrored anchors. Raises InvalidInput for invalid arrays and when a
    command has fewer than 6 different trajectories.
    """
    trajectories = np.asarray(trajectories, np.float64)
    commands = np.asarray(commands)
    if trajectories.ndim != 3 or trajectories.shape[1:] != (STEPS, 2):
        raise InvalidInput("trajectories", f"want [N, {STEPS}, 2], got {list(trajectories.shape)}")
    if not np.isfinite(trajectories).all():
        raise InvalidInput("trajectories", "holds a number that is not finite")
    if commands.shape != trajectories.shape[:1] or commands.dtype.kind not in "iu":
        raise InvalidInput("commands", f"want integers [{len(trajectories)}], got {commands.dtype} {commands.shape}")
    array = np.zeros((len(COMMAND_ORDER), MODES, STEPS, 2), np.float32)
    counts = np.zeros((len(COMMAND_ORDER), MODES), np.int64)
    for index, command in enumerate(COMMAND_ORDER):
        flat = trajectories[commands == index].reshape(-1, 2 * STEPS)
        distinct = len(np.unique(flat, axis=0))
        if distinct < MODES:
            raise InvalidInput("trajectories", f"{command.value} has {distinct} different ones, want {MODES} or more")
        centres, sizes = cluster(flat, MODES, seed, starts)
        if command in standing and (np.abs(centres[:, -2]) >= STANDSTILL).all():
            centres, sizes = _with_standstill(flat, seed, starts)
        steps = np.diff(centres.reshape(-1, STEPS, 2), axis=1, prepend=0.0)
        order = np.argsort(np.linalg.norm(steps, axis=-1).sum(-1), kind="stable")
        array[index] = centres[order].reshape(MODES, STEPS, 2)
        counts[index] = sizes[order]
    return AnchorSet(array, counts)


def _with_standstill(flat: np.ndarray, seed: int, starts: int) -> tuple[np.ndarray, np.ndarray]:
    standing = np.abs(flat[:, -2]) < STANDSTILL
    centres, sizes = cluster(flat[~standing], MODES - 1, seed, starts)
    still = flat[standing].mean(0) if standing.any() else np.zeros(flat.shape[1])
    return np.vstack([still, centres]), np.concatenate([[standing.sum()], sizes])


def cluster(points: np.ndarray, k: int, seed: int, starts: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Run deterministic k-means: centres float64 [k, D] and cluster sizes int64 [k] of points [N, D].

    k-means++ seeding from default_rng(seed), Lloyd iterations until convergence (at most 300), best of `starts` runs by
    inertia. An empty cluster is reseeded with the point farthest from its nearest centre.
    """
    generator = np.random.default_rng(seed)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for _ in range(starts):
        centres = _seed_centres(points, k, generator)
        for _ in range(300):
            distance = _squared(points, centres)
            member = distance.argmin(1)
            sizes = np.bincount(member, minlength=k)
            if (sizes == 0).any():
                far = np.argsort(-distance.min(1), kind="stable")
                member[far[: (sizes == 0).sum()]] = np.flatnonzero(sizes == 0)
                sizes = np.bincount(member, minlength=k)
            moved = np.stack([np.bincount(member, column, k) for column in points.T], 1) / np.maximum(sizes, 1)[:, None]
            settled = np.array_equal(moved, centres)
            centres = moved
            if settled:
                break
        inertia = float(_squared(points, centres).min(1).sum())
        if best is None or inertia < best[0]:
            best = inertia, centres, sizes
    assert best is not None
    return best[1], best[2].astype(np.int64)


def _squared(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.stack([((points - centre) ** 2).sum(1) for centre in centres], axis=1)


def _seed_centres(points: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    chosen = [int(generator.integers(len(points)))]
    nearest = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < k:
        total = np.cumsum(nearest)
        pick = int(np.searchsorted(total, generator.random() * total[-1], side="right"))
        chosen.append(min(pick, len(points) - 1))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    return points[chosen].copy()


def main(arguments: list[str] | None = None) -> None:
    """Fit anchors to the kinematic urban manoeuvres and write them to a file."""
    parser = argparse.ArgumentParser(
        prog="python -m sparseoccvla_ros.planning.anchors",
        description="Fit the 3 x 6 trajectory anchors to kinematic urban manoeuvres and write them to a file.",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, for example models/tiny/anchors.npz")
    parser.add_argument("--seed", type=int, default=0, help="seed of k-means (default 0)")
    options = parser.parse_args(arguments)
    anchors = fit_anchors(*anchor_presets.urban(), seed=options.seed)
    anchors.save(options.out)
    for command, modes, counts in zip(COMMAND_ORDER, anchors.array, anchors.counts, strict=True):
        ends = "  ".join(f"({x:.1f}, {y:.1f}) x{n}" for (x, y), n in zip(modes[:, -1], counts, strict=True))
        print(f"{command.value:9s}{ends}")
    print(f"sha256 {anchors.sha256}")


if __name__ == "__main__":
    main()
