"""Every test that a page names, to show what it promises, exists; so does every suite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
COHERENCE = ROOT / "docs" / "concepts" / "coherence.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
SECURITY = ROOT / "docs" / "operations" / "security.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def written() -> set[str]:
    """The names of all test functions."""
    source = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    return set(re.findall(r"^ *(?:async )?def (test_\w+)", source, re.MULTILINE))


@pytest.mark.parametrize("page", [COHERENCE, RELIABILITY, SECURITY], ids=lambda page: page.name)
def test_every_test_named_exists(page: Path, written: set[str]) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert named
    assert named - written == set()


def test_every_guarantee_names_a_test() -> None:
    table = COHERENCE.read_text().partition("## What holds now")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if "`test_" not in row] == []


def test_every_threat_names_a_test() -> None:
    table = SECURITY.read_text().partition("## Threats")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if "`test_" not in row] == []


def test_the_table_of_suites_is_complete() -> None:
    named = set(re.findall(r"^\| `tests/([a-z_]+)`", CONTRIBUTING.read_text(), re.MULTILINE))
    assert named == {path.parent.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
