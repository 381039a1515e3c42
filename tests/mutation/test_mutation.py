"""The mutation tester itself: a weak test lets a change survive that a good one kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutation import mutants

TESTS = Path(__file__).resolve().parents[1]

MODULE = '''\
"""A module."""

from collections.abc import Generator


class Gate:
    """It lets so many through."""

    def __init__(self, most: int) -> None:
        self.most = most

    def admits(self, count: int) -> bool:
        return count < self.most


def counting(end: int) -> Generator[int, None, str]:
    number = 0
    while number < end:
        yield number
        number = number + 1
    return "done"


def unused() -> int:
    return 1 + 1
'''

WEAK = """\
import gate


def test_it_admits():
    assert gate.Gate(3).admits(1)


def test_it_counts():
    assert gate.counting(0) is not None
    list(gate.counting(2))
"""

GOOD = """\
import gate


def test_it_admits():
    assert gate.Gate(3).admits(2) is True
    assert gate.Gate(3).admits(3) is False


def counted(end):
    result = yield from gate.counting(end)
    assert result == "done"


def test_it_counts():
    assert list(counted(2)) == [0, 1]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "gate.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def mutate(project: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (project / "test_gate.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "mutation", "gate.py", "--root", str(project), "--tests", "test_gate.py", *options],
        cwd=TESTS,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def named(project: Path, before: str, after: str) -> str:
    """Return the name of the mutant that changes one text into another."""
    _, every = mutants.sample(project, ["gate.py"], None, 1)
    (name,) = [
        one.name
        for one in (mutants.make(project, *which) for which in every)
        if (one.before, one.after) == (before, after)
    ]
    return name


TURNED = ("count < self.most", "count <= self.most")


def test_a_weak_test_lets_a_change_survive(project: Path) -> None:
    told = mutate(project, WEAK, "--only", named(project, *TURNED), "--at-least", "85")
    assert told.returncode == 1, told.stderr
    assert "gate.py:13 Gate.admits: survived of 1 tests" in told.stdout
    assert "- count < self.most" in told.stdout
    assert "+ count <= self.most" in told.stdout


def test_a_good_test_kills_it(project: Path) -> None:
    told = mutate(project, GOOD, "--only", named(project, *TURNED), "--at-least", "85")
    assert told.returncode == 0, told.stderr
    assert "1 of     1 killed  100.0 %" in told.stdout


def test_a_generator_is_changed_like_any_other_function(project: Path) -> None:
    told = mutate(project, GOOD, "--only", named(project, "'done'", "'XXdone'"), "--at-least", "100")
    assert told.returncode == 0, told.stdout


def test_a_change_that_never_ends_is_killed(project: Path) -> None:
    name = named(project, "number + 1", "number - 1")
    told = mutate(project, WEAK, "--only", name, "--at-least", "100")
    assert told.returncode == 0, told.stdout


def test_what_no_test_calls_counts_as_survived(project: Path) -> None:
    told = mutate(project, GOOD, "--only", named(project, "1 + 1", "1 - 1"))
    assert "unused: untested of 0 tests" in told.stdout
    assert "0 of     1 killed    0.0 %" in told.stdout


def test_a_test_that_fails_anyway_kills_nothing(project: Path) -> None:
    told = mutate(project, GOOD + "\n\ndef test_wrong():\n    assert gate.unused() == 3\n", "--sample", "2")
    assert told.returncode == 2
    assert "test_gate.py::test_wrong" in told.stdout


def test_a_run_goes_on_from_the_verdicts_that_were_kept(project: Path) -> None:
    kept = project / "kept.json"
    first = mutate(project, GOOD, "--keep", str(kept), "--minutes", "0")
    assert first.stdout.rstrip().endswith("mutants"), "there was only time to look at the tests"
    name = named(project, *TURNED)
    assert "1 of     1 killed" in mutate(project, GOOD, "--keep", str(kept), "--only", name).stdout
    kept.write_text(kept.read_text().replace('"fate": "killed"', '"fate": "survived"'))
    assert "0 of     1 killed" in mutate(project, GOOD, "--keep", str(kept), "--only", name).stdout


def test_a_sample_is_the_same_for_the_same_seed(project: Path) -> None:
    assert mutants.sample(project, ["gate.py"], 5, 1) == mutants.sample(project, ["gate.py"], 5, 1)
    assert mutants.sample(project, ["gate.py"], 5, 1) != mutants.sample(project, ["gate.py"], 5, 2)


def test_types_docstrings_and_errors_are_left_alone(project: Path) -> None:
    (project / "gate.py").write_text(
        'def f(a: "int" = 1) -> "str":\n    """Doc."""\n    b: "int" = 2\n    raise ValueError("text")\n'
    )
    _, every = mutants.sample(project, ["gate.py"], None, 1)
    changed = [mutants.make(project, *which) for which in sorted(every)]
    assert [(one.before, one.after) for one in changed] == [("1", "2"), ("2", "3")]


def test_what_a_program_that_is_right_cannot_show_is_left_alone(project: Path) -> None:
    (project / "gate.py").write_text("def f(a, b):\n    zip(a, b, strict=True)\n    return a is None\n")
    _, every = mutants.sample(project, ["gate.py"], None, 1)
    after = {mutants.make(project, *which).after for which in every}
    assert after == {"pass", "zip(None, b, strict=True)", "zip(a, None, strict=True)", "return None", "a is not None"}
