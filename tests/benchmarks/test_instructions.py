"""A hit takes no more instructions than it did: counted, so that neighbours on the machine change nothing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def instructions() -> ModuleType:
    """The module that counts."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import instructions
    finally:
        sys.path.remove(str(BENCHMARKS))
    return instructions


@pytest.mark.timeout(180)
def test_a_hit_takes_no_more_of_the_limits_instructions_than_is_stored(instructions: ModuleType) -> None:
    if shutil.which("valgrind") is None:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail("valgrind is not installed")
        pytest.skip("valgrind is not installed")
    before = instructions.stored()
    if before is None:
        pytest.skip(f"no ratios are stored for {instructions.version()}: run benchmarks/instructions.py --store")

    counted = instructions.count()

    assert counted.keys() == {*instructions.SUBJECTS, *instructions.SUBJECTS.values()}
    # Fewer than a hundred could not even call a function: then nothing was measured.
    assert min(counted.values()) > 100
    assert instructions.slower(instructions.ratios(counted), before) == []


def test_what_has_become_slower_by_more_than_the_margin_is_named(instructions: ModuleType) -> None:
    before = {"function": 1.0, "method": 2.0}

    assert instructions.slower({"function": 1.1, "method": 2.2}, before) == []
    assert instructions.slower({"function": 1.2, "method": 2.2}, before) == [
        "function: 1.200 of the limit's instructions, 1.000 before"
    ]


def test_the_ratios_of_ci_are_stored(instructions: ModuleType) -> None:
    import json

    kept = json.loads(instructions.STORED.read_text())

    assert kept["CPython 3.11 x86_64"].keys() == instructions.SUBJECTS.keys()
    assert all(0.5 < ratio < 5 for ratios in kept.values() for ratio in ratios.values())
