"""Parts of messages: stamps, headers, and arrays as one little-endian block that is read without copying."""

from __future__ import annotations

import array
import math
import struct
from typing import TypeVar, cast

import numpy as np
from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import deserialize_message
from sparseoccvla_msgs import msg as own
from std_msgs.msg import Header

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.types import BASE_FRAME

_HEADER = 4
"""Bytes of the encapsulation header of CDR, which the payload follows."""
Message = TypeVar("Message")
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("float32", "float64", "uint8", "int16", "int64", "bool")}


def nanoseconds(stamp: Time) -> int:
    """Convert a stamp to integer nanoseconds."""
    return stamp.sec * 10**9 + stamp.nanosec


def time_msg(stamp: int) -> Time:
    """Convert integer nanoseconds to a stamp."""
    sec, nanosec = divmod(int(stamp), 10**9)
    return Time(sec=sec, nanosec=nanosec)


def duration_msg(seconds: float) -> Duration:
    """Convert seconds to a Duration."""
    sec, nanosec = divmod(round(seconds * 1e9), 10**9)
    return Duration(sec=sec, nanosec=nanosec)


def header(stamp: int, frame_id: str = BASE_FRAME) -> Header:
    """Build a Header from integer nanoseconds and a frame."""
    return Header(stamp=time_msg(stamp), frame_id=frame_id)


def block(values: np.ndarray) -> array.array:
    """Return the bytes of an array as array.array('B'), the only type rclpy accepts without touching every element."""
    out = array.array("B")
    out.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return out


def tensor_to_msg(values: np.ndarray) -> own.Tensor:
    """Convert a numpy array with a dtype of DTYPES to a Tensor."""
    return own.Tensor(dtype=values.dtype.name, shape=array.array("I", values.shape), data=block(values))


def tensor_from_msg(message: own.Tensor, name: str) -> np.ndarray:
    """Return the array of a Tensor, sharing its memory. InvalidInput(name) when dtype, shape and length disagree."""
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        raise InvalidInput(name, f"dtype '{message.dtype}' is not one of {', '.join(DTYPES)}")
    shape = tuple(message.shape)
    want = math.prod(shape) * dtype.itemsize
    if len(message.data) != want:
        raise InvalidInput(name, f"{len(message.data)} bytes do not hold {message.dtype} {list(shape)} ({want} bytes)")
    try:
        return np.frombuffer(message.data, dtype).reshape(shape)
    except ValueError as error:  # an empty array with more or larger dimensions than numpy supports
        raise InvalidInput(name, str(error)) from None


def decode(raw: bytes, kind: type[Message]) -> Message:
    """Deserialise a message that came from outside. InvalidInput("cdr") when it is damaged.

    Fast CDR takes the padding that the header states off the length without looking whether there is that much, and
    reads past the end of a message that is too short: garbage or a segmentation fault. Such a one is refused here.
    """
    if len(raw) < _HEADER + (raw[_HEADER - 1] & 3 if len(raw) >= _HEADER else 0):
        raise InvalidInput("cdr", f"{len(raw)} bytes are no message")
    try:
        return cast(Message, deserialize_message(raw, kind))
    except Exception as error:  # rclpy has no narrower type for it
        raise InvalidInput("cdr", str(error)) from None


def stamp_of(raw: bytes) -> int:
    """Return the stamp in ns of a serialised message that starts with a Header (CDR, little endian).

    InvalidInput("cdr") when it is too short for one.
    """
    if len(raw) < _HEADER + 8:
        raise InvalidInput("cdr", f"{len(raw)} bytes hold no header")
    sec, nanosec = struct.unpack_from("<iI", raw, _HEADER)
    return sec * 10**9 + nanosec
