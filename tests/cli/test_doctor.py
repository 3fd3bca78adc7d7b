"""./run doctor sends a reader to a page that is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "sparseoccvla_ros" / "cli" / "doctor.py").read_text()


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


def test_every_page_and_section_is_there() -> None:
    pages = set(re.findall(r'"((?:nodes/)?\w+\.md(?:#[\w-]+)?)"', SOURCE))
    assert len(pages) >= 10
    for place in pages:
        name, _, section = place.partition("#")
        assert (ROOT / "docs" / name).is_file(), place
        assert not section or section in _anchors(ROOT / "docs" / name), place


def test_whatever_is_not_well_has_a_page() -> None:
    """A Finding whose kind may be other than ok."""
    calls = [n for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "Finding"]
    assert len(calls) >= 15
    for call in calls:
        if ast.unparse(call.args[0]) != "'ok'":
            assert len(call.args) == 5 or any(k.arg == "page" for k in call.keywords), ast.unparse(call)
