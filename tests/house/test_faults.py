"""docs/faults.md names a test for each of the 24 injections, and each of them is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rows() -> dict[int, str]:
    text = (ROOT / "docs" / "faults.md").read_text()
    return {int(number): row for row in text.splitlines() for number in re.findall(r"^\| (\d+) \|", row)}


def defined(path: Path) -> dict[str, ast.FunctionDef]:
    """Tests of a file by name, those of classes as Class::test."""
    tree = ast.parse(path.read_text())
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        found |= {f"{kind.name}::{node.name}": node for node in kind.body if isinstance(node, ast.FunctionDef)}
    return found


def test_each_injection_has_tests_that_exist() -> None:
    assert sorted(rows()) == list(range(1, 25))
    for number, row in rows().items():
        named = re.findall(r"`([\w/]+\.py)::(\w+(?:::\w+)?)`( \(slow\))?", row)
        assert named, number
        for file, name, slow in named:
            tests = defined(ROOT / "tests" / file)
            assert name in tests, f"{number}: {file}::{name}"
            marked = any(ast.unparse(d).removeprefix("pytest.") == "mark.slow" for d in tests[name].decorator_list)
            assert marked == bool(slow), f"{number}: {name} is {'' if marked else 'not '}marked slow"


def test_numbered_tests_belong_to_their_row() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in defined(path):
            number = re.match(r"test_(\d\d)_", name)
            if number:
                assert f"::{name}`" in rows()[int(number[1])], f"{path.name}::{name}"
