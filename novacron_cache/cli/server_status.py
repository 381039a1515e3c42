"""`status` and `logs`: how the servers on this machine are, and what they say; nothing is changed."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .servers import CODES, EXIT_CODES, explained, local_servers, state_dir
from .targets import json_option

if TYPE_CHECKING:
    from ..topology.health import Health

__all__ = ["logs", "print_table", "status"]


@click.command(epilog=CODES)
@json_option
@state_dir
def status(as_json: bool, state_dir: Path | None) -> None:
    """Show how each server is.

    Not only whether it runs, but whether it does what the others need it for.
    """
    with explained():
        servers = local_servers(state_dir)
        found = servers.health()
    problems = [health for health in found if health.problem]
    if as_json:
        described = {
            "kind": servers.topology.kind,
            "state_dir": str(servers.state.path),
            "host": servers.topology.host,
            "ok": not problems,
            "servers": [_described(health) for health in found],
        }
        click.echo(json.dumps(described, indent=2))
    else:
        print_table(found)
    if all(health.pid is None for health in found):
        raise click.exceptions.Exit(EXIT_CODES["NotRunning"])
    if problems:
        raise click.exceptions.Exit(1)


def _described(health: Health) -> dict[str, Any]:
    return {
        "name": health.server.name,
        "role": health.role or None,
        "pid": health.pid,
        "port": health.server.port,
        "memory_bytes": health.memory,
        "version": health.version or None,
        "ok": not health.problem,
        "problem": health.problem or None,
    }


def print_table(found: list[Health]) -> None:
    """Print how servers are, as a table for people."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("pid", "port", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ok", overflow="fold", min_width=len("ok"))
    for health in found:
        memory = "" if health.memory is None else f"{health.memory / 2**20:.1f} MiB"
        pid = "" if health.pid is None else str(health.pid)
        ok = Text(health.problem, "red") if health.problem else Text("ok", "green")
        table.add_row(health.server.name, health.role, pid, str(health.server.port), memory, ok)
    console = Console()
    wanted = Measurement.get(console, console.options.update(max_width=10_000), table)
    # Half a port helps nobody, so a terminal too narrow for the table breaks its lines; a file gets them whole.
    console.width = max(console.width, wanted.minimum if console.is_terminal else wanted.maximum)
    console.print(table)


@click.command(epilog=CODES)
@click.argument("name", required=False)
@click.option("--lines", "-n", type=click.IntRange(0), default=20, show_default=True, help="How many of the last.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is logged, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each line of a log.")
@state_dir
def logs(name: str | None, lines: int, follow: bool, as_json: bool, state_dir: Path | None) -> None:
    """Print what the servers log.

    Of the server with this NAME or port, or of all of them.
    """
    with explained():
        servers = local_servers(state_dir)
        chosen = servers.topology.servers if name is None else (servers.topology.find(name),)
    with suppress(KeyboardInterrupt):  # how one that follows is meant to end
        for server, line in _logged({servers.log(server): server.name for server in chosen}, lines, follow=follow):
            if as_json:
                click.echo(json.dumps({"server": server, "line": line}))
            else:
                click.echo(f"{server} | {line}" if len(chosen) > 1 else line)


def _logged(names: dict[Path, str], lines: int, *, follow: bool) -> Iterator[tuple[str, str]]:
    """Yield the last lines of some logs, each with the name of its server; then, to follow, those that come."""
    offsets: dict[Path, int] = {}
    for path, name in names.items():
        if path.exists():
            with path.open(errors="replace") as file:
                for line in deque(file, lines):
                    yield name, line.rstrip("\n")
                offsets[path] = file.tell()
    while follow:
        for path, name in names.items():
            if path.exists():
                with path.open(errors="replace") as file:
                    file.seek(offsets.get(path, 0))
                    for line in file:
                        yield name, line.rstrip("\n")
                    offsets[path] = file.tell()
        time.sleep(0.2)
