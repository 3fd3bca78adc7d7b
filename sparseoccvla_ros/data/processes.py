"""Worker processes that do not outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading


def one_thread() -> None:
    """Initialise a worker process: it ends with its parent, and parallelism comes from the processes."""
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def end_with_parent() -> None:
    """Exit this worker process when its parent process has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
