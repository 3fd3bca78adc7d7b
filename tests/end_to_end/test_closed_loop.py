"""The whole chain over topics in lockstep is the chain without them, and drives alike twice."""

import numpy as np
import pytest
import torch

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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the nodes: sums in another order lead another way within seconds
    try:
        headless = drive(policy_of("chain", "tiny"), SEED, longest=SECONDS)
    finally:
        torch.set_num_threads(threads)
    assert len(again.states) == len(headless.states)
    np.testing.assert_allclose(again.states[:, :4], headless.states[:, :4], rtol=0, atol=1e-3)
    assert again.completion[-1] > 20.0  # it went somewhere
