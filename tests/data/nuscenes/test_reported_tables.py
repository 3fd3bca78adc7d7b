"""Tables that people had trouble with: refused with the likely cause."""

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.data.nuscenes.tables import _stamp

T = 1_532_402_927_647_951


def test_microseconds_become_nanoseconds():
    assert _stamp({"timestamp": T}, "sample") == T * 1000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (T // 10**6, "it looks like seconds"),
        (T / 10**6, "it looks like seconds"),
        (T // 10**3, "it looks like milliseconds"),
        (T * 10**3, "it looks like nanoseconds"),
        (0, "2000 to 2100$"),
        (-T, "2000 to 2100$"),
        ("2018-07-24", "no number"),
        (float("nan"), "no number"),
        (None, "no number"),
    ],
)
def test_other_units_are_refused_by_name(value, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        _stamp({"timestamp": value}, "sample_data")
    assert caught.value.field == "sample_data"
