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
    modules = {"a": "from .b import f", "b": "from .c import g, h", "c": "from .b import f", "d": "", "__init__": ""}
    for name, line in modules.items():
        (tmp_path / f"{name}.py").write_text(f"{line}\nfrom . import F\n" if name == "a" else f"{line}\n")

    def folder() -> str:
        kernels._folder.cache_clear()
        kernels._used.cache_clear()
        return kernels._folder(tmp_path / "a.py")

    before = folder()
    (tmp_path / "d.py").write_text("x = 1\n")
    assert folder() == before
    (tmp_path / "c.py").write_text("x = 1\n")
    changed = folder()
    assert changed != before
    (tmp_path / "__init__.py").write_text("F = float\n")
    assert folder() != changed, "a constant of the folder itself is compiled in"


def test_constants_of_other_folders_are_compiled_in_as_well() -> None:
    package = Path(kernels.__file__).parents[1]
    used = kernels._used(package / "world" / "kernels" / "shading.py")
    assert {package / "core" / "classes.py", package / "world" / "kernels" / "noise.py"} < used
