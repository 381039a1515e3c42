"""Everything public has a docstring, as `interrogate` counts it with the settings of the project."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_everything_public_has_a_docstring() -> None:
    config = pytest.importorskip("interrogate.config")
    coverage = pytest.importorskip("interrogate.coverage")
    given = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["interrogate"]
    given = {name.replace("-", "_"): value for name, value in given.items()}
    given["ignore_regex"] = [re.compile(pattern) for pattern in given["ignore_regex"]]
    given.pop("fail_under", None)
    found = coverage.InterrogateCoverage(
        [str(ROOT / "novacron_cache")], conf=config.InterrogateConfig(**given)
    ).get_coverage()
    missing = [
        f"{Path(one.filename).relative_to(ROOT)}:{node.lineno} {node.name}"
        for one in found.file_results
        for node in one.nodes
        if not node.covered
    ]
    assert found.total > 1500
    assert missing == []


def test_every_module_opens_with_why_it_exists() -> None:
    paths = sorted((ROOT / "novacron_cache").rglob("*.py"))
    assert [path for path in paths if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
