"""Every example is a program that runs as it is, without a warning, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def as_parameter(example: Path) -> object:
    marks = [pytest.mark.servers] if "embedded" in example.read_text() else []
    return pytest.param(example, id=example.stem, marks=marks)


@pytest.fixture
def temporary() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="nce-"))  # short enough for the path of a socket
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("example", [as_parameter(example) for example in EXAMPLES])
def test_an_example_runs(example: Path, temporary: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=temporary,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert list(temporary.iterdir()) == []


def test_there_are_examples() -> None:
    assert {"quickstart", "async_service"} <= {example.stem for example in EXAMPLES}
