"""The whole chain over topics in lockstep is the chain without them, and drives alike twice."""

import numpy as np
import pytest

from sparseoccvla_ros.bringup.lockstep import LockstepStack
from sparseoccvla_ros.eval.closed_loop.drive_record import replay
from sparseoccvla_ros.eval.closed_loop.evaluation import policy_of
from sparseoccvla_ros.eval.closed_loop.rollout import drive

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(1800)]
SEED, SECONDS = 90_000, 6.0


def test_nodes_in_lockstep_drive_as_the_chain_does_without_them(domain, tmp_path):
    logs = []
    for name in ("first", "second"):
        with LockstepStack("tiny", tmp_path / name, longest=SECONDS, on_event=print) as stack:
            folder = stack.drive(SEED)
            logs.append((folder / "log.csv").read_text())
            again = replay(folder, SEED, None)
    assert logs[0] == logs[1]
    headless = drive(policy_of("chain", "tiny"), SEED, longest=SECONDS)
    assert len(again.states) == len(headless.states)
    np.testing.assert_allclose(again.states[:, :4], headless.states[:, :4], rtol=0, atol=1e-3)
    assert again.completion[-1] > 20.0  # it went somewhere
