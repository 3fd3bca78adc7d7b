"""Once with rclpy's field checks on: a wrong field type then fails instead of being sent."""

import os
import subprocess
import sys
from pathlib import Path


def test_messages_with_field_checks() -> None:
    file = Path(__file__).with_name("test_messages.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "ROS_PYTHON_CHECK_FIELDS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        cwd=file.parents[2],
    )
    assert done.returncode == 0, done.stdout[-3000:]
