"""Files that others wrote, for libraries that make room for whatever length a damaged file declares."""

from __future__ import annotations

import io
import os


class BoundedFile(io.BufferedReader):
    """A binary file of which never more is asked than it holds, so that no buffer becomes larger than the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, all that is left where it is negative or None."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))
