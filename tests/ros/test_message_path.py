"""The message path is as fast as the README says, with room for busy machines: ratios are paired in one run."""

import time

import pytest

from sparseoccvla_ros.bench.dds_delivery import measure_delivery
from sparseoccvla_ros.bench.message_cases import image_case, voxel_publisher

pytestmark = pytest.mark.ros


def least(work, rounds: int) -> float:
    """Least milliseconds of a call: what others do on the machine only ever adds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


@pytest.mark.slow  # reads in as many threads as there are cores: they must be free
def test_reduced_decoding_costs_half_at_most():
    ours, plain = image_case()
    ratios = [least(ours, 3) / least(plain, 3) for _ in range(4)]
    assert min(ratios) < 0.55, f"share of full decode and resize: {ratios}"
    # It is the same picture: a block average instead of an area average differs by little.
    assert abs(ours().astype(int) - plain().astype(int)).mean() < 6


def test_ten_thousand_voxels_are_published_in_milliseconds():
    """1 to 2 ms on the machines seen so far; the rest is room for slower and busier ones."""
    with voxel_publisher(10_000) as publish:
        assert least(publish, 30) < 6.0


@pytest.mark.slow
@pytest.mark.usefixtures("domain")
def test_images_arrive_with_our_transport_and_not_with_the_default():
    seen = []
    # A receiver that the scheduler keeps from running for half a second loses images whatever carries them.
    for _ in range(4):
        seen.append(measure_delivery(profile=True, seconds=1.0))
        if all(found.share >= 0.99 for found in seen[-1].values()):
            break
    else:
        raise AssertionError(seen)
    default = measure_delivery(profile=False, seconds=1.0)
    assert default["raw"].share < 0.9, default
    assert default["jpeg"].share < 1.0, default
