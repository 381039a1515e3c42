"""The command line as a whole: it starts fast, says what there is, and refuses what it does not know."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from novacron_cache import __version__
from novacron_cache.cli import COMMANDS, main

HEAVY = ("redis", "rich", "pydantic", "asyncio", "psutil")


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    listed = result.output.partition("Commands:")[2].split()
    assert all(command in listed for command in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_version_is_that_of_the_package() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense"], ["demo", "--nonsense"], ["demo", "--seconds", "x"]]
)
def test_what_is_unknown_or_wrong_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from novacron_cache.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
