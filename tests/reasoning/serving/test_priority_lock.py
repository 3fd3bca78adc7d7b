"""Prefill goes before answers, and waits for one short turn at most."""

import threading
import time

from sparseoccvla_ros.reasoning.serving.priority_lock import PriorityLock


def test_urgent_goes_first_under_a_busy_answer():
    turns, done, steps = PriorityLock(), threading.Event(), 0

    def answer():
        nonlocal steps
        while not done.is_set():
            with turns.patient():
                time.sleep(0.005)
            steps += 1

    threads = [threading.Thread(target=answer) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    between = []
    for _ in range(20):
        before = steps
        with turns.urgent():
            between.append(steps - before)
        time.sleep(0.006)
    done.set()
    for thread in threads:
        thread.join(5)
    # A turn under way may end (its count may come a moment late), none may begin.
    assert max(between) <= 2
    assert steps > 10


def test_only_one_holds_the_turn():
    turns, inside, most = PriorityLock(), 0, 0

    def work(kind):
        nonlocal inside, most
        for _ in range(200):
            with getattr(turns, kind)():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work, args=(k,)) for k in ("urgent", "patient", "patient")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(t.is_alive() for t in threads)
    assert most == 1


def test_an_error_inside_gives_the_turn_back():
    turns = PriorityLock()
    for kind in ("urgent", "patient"):
        try:
            with getattr(turns, kind)():
                raise KeyError(kind)
        except KeyError:
            pass
    with turns.patient():
        pass
