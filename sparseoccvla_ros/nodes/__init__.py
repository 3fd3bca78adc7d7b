"""One file per node."""

import os
import signal
import sys
from pathlib import Path


def _is_node_process() -> bool:
    """Whether this process is `python -m sparseoccvla_ros.nodes.NAME` or `ros2 run sparseoccvla_ros NAME`."""
    names = {file.stem for file in Path(__file__).parent.glob("[a-z]*.py")}
    module = sys.orig_argv[2] if "-m" in sys.orig_argv[1:2] else ""
    return module.startswith(f"{__name__}.") or Path(sys.argv[0]).name in names


if _is_node_process():
    # Importing torch takes seconds. A signal meanwhile ends the node at once; ros/process.py handles later signals.
    for _kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_kind, lambda *_: os._exit(0))
