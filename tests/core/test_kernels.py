"""Compiled loops: where their machine code is kept changes with everything they use."""

from pathlib import Path

import numpy as np

from sparseoccvla_ros.core import kernels


def reciprocal(numbers: np.ndarray) -> float:
    return 1.0 / numbers[0]


def test_a_division_by_zero_is_numpys(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels._folder.cache_clear()
    compiled = kernels.kernel(reciprocal)
    kernels._folder.cache_clear()
    assert compiled(np.zeros(1)) == np.inf
    assert list(tmp_path.rglob("*.nbi")), "the machine code is kept in the user's cache"


def test_code_that_calls_a_changed_function_is_compiled_anew(tmp_path: Path) -> None:
    for name, line in {"a": "from .b import f", "b": "from .c import g, h", "c": "", "d": ""}.items():
        (tmp_path / f"{name}.py").write_text(f"{line}\n")

    def folder() -> str:
        kernels._folder.cache_clear()
        kernels._used.cache_clear()
        return kernels._folder(tmp_path / "a.py")

    before = folder()
    (tmp_path / "d.py").write_text("x = 1\n")
    assert folder() == before
    (tmp_path / "c.py").write_text("x = 1\n")
    assert folder() != before
