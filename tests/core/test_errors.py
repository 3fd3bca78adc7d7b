"""Every refusal has a code, and every code stands in docs/troubleshooting.md."""

import ast
import re
from pathlib import Path

import pytest

from sparseoccvla_ros.camera_sync.drop_reasons import DropReason
from sparseoccvla_ros.core.errors import MODULES, WORDS, InvalidInput, code_of, format_error, module_code, with_code

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparseoccvla_ros"
RAISING = sorted(p for p in PACKAGE.rglob("*.py") if "raise InvalidInput" in p.read_text())


def test_the_page_lists_every_code_and_no_other() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `(SOV\d\d)` \| [^|]{5,} \| [^|]{10,} \|$", page, re.M)
    assert rows == sorted({*WORDS, *MODULES})
    for text in [page, *(p.read_text() for p in (ROOT / "docs").rglob("*.md"))]:
        assert set(re.findall(r"\bSOV\d+\b", text)) <= {*WORDS, *MODULES}


@pytest.mark.parametrize("file", RAISING, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_every_module_that_refuses_has_a_code(file: Path) -> None:
    assert module_code(".".join(file.relative_to(ROOT).with_suffix("").parts))


def test_every_code_is_used() -> None:
    names = [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py")]
    for room in " ".join(MODULES.values()).split():
        assert any(f"{name}.".startswith(f"{room}.") for name in names), room
    found = {module_code(".".join(p.relative_to(ROOT).with_suffix("").parts)) for p in RAISING}
    assert set(MODULES) == found


def test_every_drop_reason_has_a_code() -> None:
    for reason in DropReason:
        assert re.fullmatch(rf"{reason.value}: CAM_BACK \[SOV\d\d\]", with_code(reason.value, "CAM_BACK"))


def test_what_a_node_refuses_ends_with_a_code() -> None:
    """No log or answer shows the bare text of a refusal."""
    for file in [*(PACKAGE / "nodes").glob("*.py"), *(PACKAGE / "ros").rglob("*.py"), *(PACKAGE / "cli").glob("*.py")]:
        for handler in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ExceptHandler)):
            caught = ast.unparse(handler.type) if handler.type else ""
            if caught == "InvalidInput" and handler.name:
                assert "str(error)" not in ast.unparse(handler), f"{file.name}:{handler.lineno}"


def test_an_error_is_explained_by_whom_it_is_raised_for() -> None:
    from sparseoccvla_ros.camera_sync.profiles import profile
    from sparseoccvla_ros.runtime.presets import load_preset

    for load, name, code in ((profile, "tesla", "SOV12"), (load_preset, "tesla", "SOV60")):
        with pytest.raises(InvalidInput) as caught:
            load(name)
        assert format_error(caught.value).endswith(f"[{code}]")
    assert code_of(InvalidInput("never", "raised")) == ""
