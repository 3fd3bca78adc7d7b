"""Process of a node: its services answer while it loads, and it exits within seconds of SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import gc
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
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from .lifecycle_base import StageNode

try:
    # Since Kilted. It does not rebuild a wait set for every message, which costs a set of images 8 ms in each node.
    from rclpy.experimental import EventsExecutor as Executor
except ImportError:
    from rclpy.executors import SingleThreadedExecutor as Executor


def run(*makes: Callable[[], StageNode], args: Sequence[str] | None = None) -> int:
    """Run a node's process: create the nodes, autostart and spin them, end the process.

    rclpy's own signal handlers are not installed: they invalidate the context at once, which makes publishing raise,
    and the empty path that stops a follower would never be sent. Here nodes close first.

    Args:
        makes: Functions that create the nodes of this process; each node spins in its own thread.
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
        # On a small computer, text and pictures must not delay plans. A composed process keeps its priority.
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
    # In its own thread, so parameter and lifecycle services answer while a model loads.
    threading.Thread(target=_autostart, args=(nodes, ended), name="autostart", daemon=True).start()
    ended.wait()
    _end(nodes, threads)
    return 0


def spin(nodes: Sequence[StageNode], context: Context | None = None, ended: threading.Event | None = None) -> None:
    """Spin nodes in this thread until shutdown or `ended`; a refused lifecycle transition is only logged."""
    executor, broken = _executor(nodes, context), []
    try:
        while rclpy.ok(context=context) and not (ended is not None and ended.is_set()):
            try:
                # Not spin_once: it returns at once while an action's callback waits for a future.
                executor.spin_until_future_complete(Future(), 0.5 if ended is None else 0.1)
            except (KeyboardInterrupt, ExternalShutdownException):
                return
            except Exception as error:
                # A topic was destroyed while the executor took it up: autostart runs in parallel, and a failed
                # configure destroys its topics again. EventsExecutor is then left half changed (and must not be
                # deleted); a new one begins with the topics of now.
                if type(error).__name__ == "InvalidHandle":
                    broken.append(executor)
                    executor = _executor(nodes, context)
                    continue
                # In Jazzy's rclpy, a transition that is not allowed raises RCLError from the executor.
                if type(error).__name__ != "RCLError":
                    raise
                nodes[0].get_logger().error(f"{error}")
    finally:
        for node in nodes:
            executor.remove_node(node)
        executor.shutdown(timeout_sec=2.0)


def _executor(nodes: Sequence[StageNode], context: Context | None) -> Executor:
    executor = Executor(context=context)
    for node in nodes:
        executor.add_node(node)
    return executor


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
        except KeyboardInterrupt:  # the node asks its process to end
            ended.set()
            return
        except Exception as error:  # a lifecycle manager was faster, or the process ends
            if not node.closing:
                node.get_logger().error(f"autostart: {error}")


def _end(nodes: list[StageNode], spinning: list[threading.Thread]) -> None:
    """Close the nodes and end the process, without waiting for threads that still run a model by then.

    A normal exit of the interpreter would wait for them, and unloading torch alone takes seconds on a busy machine.
    """
    until = time.monotonic() + max(node.end_seconds for node in nodes)
    for node in nodes:
        node.closing = True
    for thread in spinning:  # no callback may use a destroyed handle
        thread.join(1.0)
    closers = [threading.Thread(target=_close, args=(node.close,), daemon=True) for node in nodes]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join(max(0.0, until - time.monotonic()))
    code, context = max(node.exit_code for node in nodes), nodes[0].context
    for node in nodes:
        _close(node.destroy_node)  # else others would list it until its lease expires, 20 s later
    _close(rclpy.try_shutdown)
    del node, thread, closers
    nodes.clear()
    spinning.clear()
    ending = threading.Thread(target=_drop, args=(context,), daemon=True)
    ending.start()
    ending.join(1.0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _drop(context: Context) -> None:
    """End the DDS participant, which the collected nodes kept; else its shared memory would stay in /dev/shm."""
    gc.collect()
    _close(context.destroy)


def _close(close: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        close()
