"""Reading .npz files that others wrote: nothing is unpickled, and no array is made that its file does not hold."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from .errors import InvalidInput

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path, field: str, names: tuple[str, ...] = (), limit: int = 2**26) -> dict[str, np.ndarray]:
    """Arrays by name.

    Args:
        path: the file.
        field: what InvalidInput names.
        names: arrays to read; all where empty.
        limit: bytes that they may take unpacked.

    Raises:
        InvalidInput: the file is missing, damaged, holds objects, lacks a name, or would take more than `limit`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = sorted(set(names) - set(held))
            if missing:
                raise InvalidInput(field, f"{path.name} lacks {', '.join(missing)}")
            chosen = {name: held[name] for name in names or held}
            if sum(info.file_size for info in chosen.values()) > limit:
                raise InvalidInput(field, f"{path.name} unpacks to more than {limit // 2**20} MiB")
            for info in chosen.values():
                _check_header(archive, info, field)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in chosen}
    except (InvalidInput, PermissionError):
        raise
    except FileNotFoundError:
        raise InvalidInput(field, f"cannot read {path}: it does not exist") from None
    except Exception as error:  # zip, zlib, struct and the parser of headers each have their own: all mean damage
        raise InvalidInput(field, f"cannot read {path.name}: {error or type(error).__name__}") from error


def _check_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, field: str) -> None:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise InvalidInput(field, f"{info.filename} has array format {version}")
        shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise InvalidInput(field, f"cannot read {info.filename}: it holds objects, which are never unpickled")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise InvalidInput(field, f"{info.filename} does not hold the {list(shape)} {dtype} that it declares")
