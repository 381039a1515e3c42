"""The benchmarks run, measure everything they name, and write what they print; how fast anything is, is not asked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What a quick run printed, and what it wrote."""
    written = tmp_path_factory.mktemp("benchmarks") / "result.json"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--quick", "--json", written],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert written.exists(), done.stderr
    return done, json.loads(written.read_text())


def _cases(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for area in report["areas"]:
        yield from area["cases"]


def test_no_contender_fails(quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, report = quick

    assert [area["failures"] for area in report["areas"]] == [[], []]
    assert done.returncode == 0, done.stderr


def test_every_row_has_a_time_and_a_ratio(quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    _, report = quick

    for case in _cases(report):
        for row in case["rows"]:
            assert row["ns"] > 0, row
            assert math.isfinite(row["ratio"]), row


def test_limit_peers_and_ours_stand_in_every_case(
    quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    _, report = quick

    cases = {case["name"]: {row["name"] for row in case["rows"]} for case in _cases(report)}
    for name in ("sync, str", "sync, int", "method, str", "4 threads, str"):
        assert {"limit", "novacron_cache", "functools.lru_cache", "cachebox.cached"} <= cases[name]
    assert {"limit", "novacron_cache", "cachebox.cached", "async_lru", "aiocache", "cashews"} <= cases["async, str"]
    assert sum("novacron_cache" in names for names in cases.values()) == len(cases) == 7


def test_every_promise_is_measured_and_printed(
    quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    done, report = quick

    figures = [figure for area in report["areas"] for figure in area["figures"]]
    assert {figure["column"] for figure in figures} == {"first release", "at least", "aim", "floor"}
    for figure in figures:
        assert figure["measured"] is not None, figure
        kept = figure["measured"] <= figure["bound"] if figure["at_most"] else figure["measured"] >= figure["bound"]
        assert figure["reached"] is kept
        assert figure["what"] in done.stdout
    assert done.stdout.count("reached") == len(figures)


def test_a_stampede_is_loaded_once(quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    _, report = quick

    loads = [f["measured"] for area in report["areas"] for f in area["figures"] if f["what"].startswith("loads of")]
    assert loads == [1.0] * 4


def test_the_report_says_what_it_ran_on(quick: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    _, report = quick

    assert report["quick"] is True
    assert report["setting"]["python"].startswith("CPython 3.")
    assert {"cachebox", "cachetools", "aiocache", "cashews"} <= set(report["setting"]["packages"])


_BROKEN = """
import sys
sys.path.insert(0, {path!r})
from measuring import OURS, Contender, compare

def absent():
    raise ImportError("no such peer")

def wrong():
    def check():
        raise AssertionError("2 loads of 1 keys")
    return (lambda: 1.0), check

case = compare("case", [
    Contender("limit", lambda: ((lambda: 4.0), lambda: None)),
    Contender(OURS, lambda: ((lambda: 6.0), lambda: None)),
    Contender("absent", absent),
    Contender("wrong", wrong),
], rounds=3)
print([(row.name, row.ratio, row.ours, row.failed) for row in case.rows])
"""


def test_a_peer_that_cannot_be_measured_is_failed_and_not_beaten() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN.format(path=str(BENCHMARKS))], capture_output=True, text=True, check=True
    )

    assert eval(done.stdout) == [  # noqa: S307 - printed a moment ago
        ("limit", 1.0, 4.0 / 6.0, None),
        ("novacron_cache", 1.5, 1.0, None),
        ("absent", None, None, "ImportError: no such peer"),
        ("wrong", None, None, "AssertionError: 2 loads of 1 keys"),
    ]
