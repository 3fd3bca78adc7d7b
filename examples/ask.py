#!/usr/bin/env python3
"""Asks the running stack a question over the action AskScene; the answer is printed as it is written.

    ./run env python examples/ask.py 'Is there a car ahead?'

Without a ROS 2 install this takes the place of `ros2 action send_goal`; with one, python3 runs it as well.
"""

from __future__ import annotations

import sys

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from sparseoccvla_msgs.action import AskScene

PATIENCE = 60.0
"""Seconds to wait for the node, and for its answer."""


def ask(node: Node, question: str, name: str = "/sparseoccvla/reasoning/ask") -> str:
    """Prints the answer piece by piece; returns why it ended, as complete or token_limit."""
    client = ActionClient(node, AskScene, name)
    if not client.wait_for_server(timeout_sec=PATIENCE):
        return f"nobody offers {name}: is the stack running?"
    goal = AskScene.Goal(question=question)
    sent = client.send_goal_async(goal, lambda message: print(message.feedback.text, end="", flush=True))
    rclpy.spin_until_future_complete(node, sent, timeout_sec=PATIENCE)
    if not sent.done() or not sent.result().accepted:
        return "the question was refused; the log of reasoning says why"
    answer = sent.result().get_result_async()
    rclpy.spin_until_future_complete(node, answer, timeout_sec=PATIENCE)
    return str(answer.result().result.reason) if answer.done() else "no answer in time"


def main() -> int:
    """Asks what the command line says."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    rclpy.init()
    reason = ask(rclpy.create_node("ask"), sys.argv[1])
    print(f"\n({reason})")
    return 0 if reason in ("complete", "token_limit", "time_limit") else 1


if __name__ == "__main__":
    sys.exit(main())
