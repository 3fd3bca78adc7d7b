"""The verbs of ./run."""

import os
import signal
import sys

if " ".join(sys.argv[1:3]).startswith(("launch", "cockpit", "drive", "view", "demo", "serve", "bag play")):
    # Until a node is started there is nothing to stop: told to end during the imports, a launch ends and says nothing.
    for _kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_kind, lambda *_: os._exit(0))
