"""Every Python block of the README and the documentation runs, page by page, from top to bottom.

A page is one program: its blocks share names, start without a default cache, and leave none behind. They run in an
empty directory. A block that shows what is not meant to run is fenced as something other than `python`.
"""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import novacron_cache
from novacron_cache import configure

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def parsed(page: Path) -> Document:
    sybil = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT), pattern="*.md")
    return sybil.parse(page)


WITH_BLOCKS = [page for page in PAGES if list(parsed(page).examples())]


def as_parameter(page: Path) -> Any:
    marks = [pytest.mark.servers] if "embedded" in "".join(e.parsed for e in parsed(page).examples()) else []
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


def with_examples() -> list[str]:
    """The modules that have an example in a docstring; their text is looked at, so that nothing is imported yet."""
    source = Path(novacron_cache.__path__[0])
    found = [path.relative_to(source.parent) for path in sorted(source.rglob("*.py")) if ">>> " in path.read_text()]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in found]


@pytest.fixture(autouse=True)
def _a_fresh_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    configure()
    yield
    configure()


@pytest.mark.parametrize("page", [as_parameter(page) for page in WITH_BLOCKS])
def test_the_blocks_of_a_page_run(page: Path) -> None:
    for example in parsed(page).examples():
        example.evaluate()


def test_there_is_something_to_run() -> None:
    names = {page.name for page in WITH_BLOCKS}
    assert {"README.md", "index.md", "tutorial.md", "coherence.md"} <= names


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_in_docstrings_run(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert attempted > 0
