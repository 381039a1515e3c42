"""What type checkers say of a cached function: right uses pass, and each marked line of the wrong ones is reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARKED = {
    number
    for number, line in enumerate((HERE / "wrong.py").read_text().splitlines(), 1)
    if line.rstrip().endswith("# WRONG")
}

Reports = set[tuple[str, int]]


def run(*command: str) -> str:
    files = [str(HERE / "right.py"), str(HERE / "wrong.py")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *files], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr  # 1: it ran, and there were errors
    return done.stdout


def mypy() -> Reports:
    found = re.finditer(r"^(?:.*[/\\])?(\w+\.py):(\d+): error", run("mypy", "--strict"), re.MULTILINE)
    return {(match[1], int(match[2])) for match in found}


def pyright() -> Reports:
    reported = json.loads(run("pyright", "--outputjson"))["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in reported}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_accepts_the_right_uses_and_reports_each_wrong_one(checker: type[Reports]) -> None:
    pytest.importorskip(checker.__name__)
    reported = checker()
    assert {line for name, line in reported if name == "right.py"} == set()
    assert {line for name, line in reported if name == "wrong.py"} == MARKED
