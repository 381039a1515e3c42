"""The command line as a whole: it starts fast, says what there is, and refuses what it does not know."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_json(command: str) -> None:
    assert "--json" in CliRunner().invoke(main, [command, "--help"]).output


def test_the_version_is_that_of_the_package() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_the_package_is_the_command_line_too() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "novacron_cache", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert run("--version").stdout == f"novacron-cache {__version__}\n"
    assert "Usage: python -m novacron_cache get [OPTIONS] KEY" in run("get", "--help").stdout
    wrong = run("nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")


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


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_cannot_be_written_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "novacron_cache", "get", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "Error: No space left on device\n")


def test_a_reader_that_has_gone_is_no_error_worth_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "novacron_cache", "get", "--help"],
            stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=30,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_command_that_is_told_to_end_tidies_up(number: signal.Signals, code: int) -> None:
    text = (
        "import signal, sys, types, click\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from novacron_cache.cli import COMMANDS, main\n"
        "@click.command()\n"
        "def wait():\n"
        "    try:\n"
        "        click.echo('waits')\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        click.echo('tidied up')\n"
        "sys.modules['novacron_cache.cli.waiting'] = types.SimpleNamespace(wait=wait)\n"
        "COMMANDS['wait'] = 'waiting:wait'\n"
        "main(['wait'])"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "waits\n"
        started.send_signal(number)
        said, _ = started.communicate(timeout=30)
    assert (started.returncode, said) == (code, "tidied up\n")
