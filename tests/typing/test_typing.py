"""What type checkers say of the public API: right uses pass, and each marked line of the wrong ones is reported.

Not only that a line is reported, but as what: a wrong argument that is refused because the whole call is not understood
would be no proof that the argument is checked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = re.compile(r"  # WRONG (?P<mypy>[^|]+) \| (?P<pyright>.+)$")


class Report(NamedTuple):
    """What a checker calls wrong."""

    file: str
    line: int
    code: str


def marked(checker: str) -> set[Report]:
    found = set()
    for number, line in enumerate((HERE / "wrong.py").read_text(encoding="utf-8").splitlines(), 1):
        if match := MARK.search(line):
            found |= {Report("wrong.py", number, code) for code in match[checker].split() if code != "-"}
    return found


def run(*command: str) -> str:
    files = [str(HERE / "right.py"), str(HERE / "wrong.py")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *files], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr  # 1: it ran, and there were errors
    return done.stdout


def mypy() -> Iterator[Report]:
    said = run("mypy", "--strict", "--show-error-codes")
    for match in re.finditer(r"^(?:.*[/\\])?(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", said, re.MULTILINE):
        yield Report(match[1], int(match[2]), match[3])


def pyright() -> Iterator[Report]:
    for one in json.loads(run("pyright", "--outputjson"))["generalDiagnostics"]:
        yield Report(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one.get("rule", ""))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_a_checker_accepts_the_right_uses_and_reports_each_wrong_one(checker: Callable[[], Iterator[Report]]) -> None:
    pytest.importorskip(checker.__name__)
    reported = set(checker())
    assert {report for report in reported if report.file != "wrong.py"} == set()
    expected = marked(checker.__name__)
    assert reported - expected == set()  # what should be right is called wrong, or wrong for another reason
    assert expected - reported == set()  # what is wrong is not noticed
    assert len(expected) > 70


def test_every_mark_is_understood() -> None:
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "# WRONG" in line and not MARK.search(line)] == []
