"""Recording of serialised messages as they arrive, so that a run leaves a bag of its outputs."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path

from ...core.errors import InvalidInput
from .writer import LATCHED_QOS, SENSOR_QOS, TF_QOS, BagWriter, typestore


class BagRecorder:
    """Appends raw CDR messages to a rosbag2 MCAP folder.

    path: the bag folder; it appears when the recorder closes. force: replace an existing bag.

    An exception, an interrupt or the exit of the interpreter closes the bag like a normal end. A killed process leaves
    only a hidden folder beside `path`, whose .mcap can be restored with `mcap recover`. Thread safe.

    Raises InvalidInput for an existing path, as BagWriter does.
    """

    def __init__(self, path: Path | str, force: bool = False) -> None:
        self._lock = threading.RLock()
        self._writer: BagWriter | None = BagWriter(path, force=force).__enter__()
        self.path = Path(path)
        self.counts: dict[str, int] = self._writer.counts
        """Messages written so far, per topic."""
        atexit.register(self.close)

    def __enter__(self) -> BagRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def knows(self, msgtype: str) -> bool:
        """Whether messages of a type can be recorded; the bag stores its definition, which must be known."""
        return msgtype in typestore().fielddefs

    def write(self, topic: str, msgtype: str, stamp: int, raw: bytes | memoryview, latched: bool = False) -> None:
        """Append one message unchanged.

        topic: absolute name; msgtype: such as sensor_msgs/msg/Image, of ROS 2 Jazzy or sparseoccvla_msgs; stamp:
        record time in ns; raw: CDR with its 4-byte header; latched: offer the topic as transient local (always the
        case for /tf_static). Raises InvalidInput for bytes without a CDR header, an unknown type, a topic that changes
        its type, a stamp outside the range of ROS time, and after close().
        """
        if len(raw) < 4 or bytes(raw[:2]) not in (b"\x00\x00", b"\x00\x01"):
            raise InvalidInput(topic, "the message does not begin with a CDR header")
        if latched or topic.rsplit("/", 1)[-1] == "tf_static":
            profile = LATCHED_QOS
        else:
            profile = TF_QOS if topic == "/tf" else SENSOR_QOS
        with self._lock:
            if self._writer is None:
                raise InvalidInput("recorder", f"{self.path} is closed")
            self._writer.write_cdr(topic, msgtype, raw, stamp, profile)

    def close(self) -> bool:
        """Finish the bag; returns whether anything was recorded. May be called twice."""
        with self._lock:
            writer, self._writer = self._writer, None
            atexit.unregister(self.close)
            if writer is None:
                return bool(self.counts)
            if self.counts:
                writer.__exit__(None)
                return True
            # Nothing was recorded: discard the bag like an aborted one.
            writer.__exit__(InvalidInput)
            return False
