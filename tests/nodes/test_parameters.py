"""Parameters as people give them: integers for floats, wrong ones mended without a restart."""

import pytest
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.nodes.bag_player import BagPlayerNode

pytestmark = pytest.mark.ros


def change(node, name: str, value: object) -> SetParametersResult:
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_an_integer_is_a_fine_float(graph):
    node = graph.add(BagPlayerNode, autostart=False, rate=2, start_offset=1, duration=0)
    assert [type(v) for v in (node.values.rate, node.values.start_offset, node.values.duration)] == [float] * 3
    assert node.values.rate == 2.0
    assert change(node, "rate", 3).successful
    assert (node.values.rate, node.get_parameter("rate").type_) == (3.0, Parameter.Type.DOUBLE)


@pytest.mark.parametrize(("name", "value"), [("rate", "fast"), ("rate", True), ("rate", 1000), ("loop", 1), ("bag", 3)])
def test_other_types_and_ranges_are_refused_by_name(graph, name, value):
    with pytest.raises(ParameterException, match=name):
        graph.add(BagPlayerNode, autostart=False, **{name: value})


def test_a_failed_configure_is_mended_by_a_parameter(graph):
    node = graph.add(BagPlayerNode, autostart=False, bag="no/such/bag", wait_for=0)
    assert node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    assert change(node, "bag", str(bundled_bag())).successful
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    refused = change(node, "bag", "another")
    assert not refused.successful
    assert "clean it up first" in refused.reason
    assert node.values.bag == str(bundled_bag())
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert change(node, "rate", 2.0).successful
    assert not change(node, "autostart", False).successful
