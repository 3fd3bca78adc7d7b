"""The process of a node: it loads while its services answer, and ends within seconds of SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import rclpy
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from .lifecycle_base import StageNode


def run(*makes: Callable[[], StageNode], args: Sequence[str] | None = None) -> int:
    """The main of a node's process: make the nodes, autostart and spin them, end the process.

    rclpy's own signal handlers stay out: they invalidate the context at once, so that whatever a thread is about to
    publish raises, and the empty path that stops a follower would never leave. Here nodes close first.

    Args:
        makes: Calls that make the nodes of this process; each node spins in a thread of its own.
        args: Command line, as rclpy takes it.

    Returns:
        2 when a parameter is refused. Otherwise it does not return: the process ends with the nodes' exit code.
    """
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    nodes: list[StageNode] = []
    try:
        for make in makes:
            nodes.append(make())
        # On a small computer text and pictures must not cost a plan. One process of all stages stays as it is.
        os.nice(min(node.niceness for node in nodes))
    except (ValueError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        for node in nodes:
            node.close()
        rclpy.try_shutdown()
        return 2
    threads = [threading.Thread(target=_spin, args=(node, ended), name=node.get_name(), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    # Beside the spinning, so that parameters and lifecycle states can be asked for while a model loads.
    threading.Thread(target=_autostart, args=(nodes, ended), name="autostart", daemon=True).start()
    ended.wait()
    _end(nodes, threads)
    return 0


def spin(nodes: Sequence[StageNode], context: Context | None = None, ended: threading.Event | None = None) -> None:
    """Spin nodes in this thread until shutdown or `ended`; a refused lifecycle transition is logged and survived."""
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    try:
        while rclpy.ok(context=context) and not (ended is not None and ended.is_set()):
            try:
                executor.spin_once(timeout_sec=0.5 if ended is None else 0.1)
            except (KeyboardInterrupt, ExternalShutdownException):
                return
            except Exception as error:
                # A topic went while the executor waited for it: autostart runs beside it, and a configure that fails
                # takes its topics away again. The next wait is without it.
                if type(error).__name__ == "InvalidHandle":
                    continue
                # Jazzy's rclpy lets a transition that is not allowed escape from the executor as RCLError.
                if type(error).__name__ != "RCLError":
                    raise
                nodes[0].get_logger().error(f"{error}")
    finally:
        for node in nodes:
            executor.remove_node(node)
        executor.shutdown(timeout_sec=2.0)


def _spin(node: StageNode, ended: threading.Event) -> None:
    try:
        spin([node], node.context, ended)
    except Exception:
        traceback.print_exc()
        node.exit_code = 1
    finally:
        ended.set()


def _autostart(nodes: Sequence[StageNode], ended: threading.Event) -> None:
    for node in nodes:
        try:
            node.publish_diagnostics()
            node.autostart()
        except KeyboardInterrupt:  # the node has nothing to do: its process ends
            ended.set()
            return
        except Exception as error:  # a lifecycle manager was faster, or the process ends
            if not node.closing:
                node.get_logger().error(f"autostart: {error}")


def _end(nodes: Sequence[StageNode], spinning: Sequence[threading.Thread]) -> None:
    """Close the nodes and end the process, without the threads that are still inside a model by then.

    The interpreter's own end would wait for them, and unloading torch alone takes seconds on a busy machine.
    """
    until = time.monotonic() + max(node.end_seconds for node in nodes)
    for node in nodes:
        node.closing = True
    for thread in spinning:  # no callback may meet a destroyed handle
        thread.join(1.0)
    closers = [threading.Thread(target=_close, args=(node.close,), daemon=True) for node in nodes]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join(max(0.0, until - time.monotonic()))
    for node in nodes:
        _close(node.destroy_node)  # else others would believe in it until its lease ends, 20 s later
    _close(rclpy.try_shutdown)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(max(node.exit_code for node in nodes))


def _close(close: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        close()
