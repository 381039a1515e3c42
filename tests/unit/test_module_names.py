"""A script's functions have names of their own, in whichever way it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from novacron_cache import cached

@cached(key="count:<n>")
def count(n: int) -> int:
    return n

print(count.cache_controller.declaration.name)
"""


@pytest.mark.parametrize(
    "how", [["first.py"], ["-m", "first"], ["-c", "import first"]], ids=["run", "module", "import"]
)
def test_a_scripts_functions_are_named_after_its_file(tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "first.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "first.count"
