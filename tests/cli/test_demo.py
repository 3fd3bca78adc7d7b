"""What ./run demo says where a machine is too slow for the playback."""

import pytest

from sparseoccvla_ros.bringup.run_on_bag import Outcome, Spread
from sparseoccvla_ros.cli.demo import slower_rate


@pytest.mark.parametrize(
    ("rate", "seconds", "paths", "advice"),
    [
        (1.0, 11.2, 0, "--rate 0.09 "),
        (1.0, 0.6, 1, "--rate 0.5 "),
        (1.0, 0.6, 8, ""),  # enough paths
        (0.2, 100.0, 0, "--rate 0.05 "),  # no slower rate is accepted
        (0.05, 100.0, 0, ""),
        (1.0, None, 0, ""),  # no occupancy at all: slowness is not what went wrong
    ],
)
def test_the_advised_rate_gives_an_encode_its_time(rate: float, seconds: float | None, paths: int, advice: str) -> None:
    outcome = Outcome("bag", 20.0, rate, camera_sets=40, paths=paths)
    if seconds is not None:
        outcome.latencies["frames -> queries"] = Spread.of([seconds])
    said = slower_rate(outcome, min_paths=5)
    assert advice in said
    assert bool(said) == bool(advice)
