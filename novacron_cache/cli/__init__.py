"""`novacron-cache`, the command line: one module for each command, loaded when it is asked for.

Starting must not cost more than the answer is worth, so nothing here imports redis, rich or pydantic, and neither may a
command's module at its top: it declares arguments and options, and imports the rest when it runs.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from .. import __version__

__all__ = ["main"]

COMMANDS: Final = {
    "audit": "audit:audit",
    "backup": "backup:backup",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "explain": "looking:explain",
    "get": "looking:get",
    "invalidate": "invalidate:invalidate",
    "logs": "server_status:logs",
    "monitor": "monitor:monitor",
    "restart": "servers:restart",
    "restore": "backup:restore",
    "scan": "scan:scan",
    "setup": "servers:setup",
    "start": "servers:start",
    "stats": "stats:stats",
    "status": "server_status:status",
    "stop": "servers:stop",
    "test": "trial:trial",
    "top": "top:top",
    "train-dictionary": "training:train_dictionary",
    "warm": "warm:warm",
}
"""Each command's name, and where it is: a module of this package and a name in it."""


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked at."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(import_module(f".{module}", __name__), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named; what the system refuses, such as to write more, is one line."""
        with _terminable():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                raise click.exceptions.Exit(128 + signal.SIGINT) from None  # 1 is an answer of many commands
            except OSError as error:
                if error.errno == errno.EPIPE:  # whoever read the output has gone, and has what was wanted
                    raise
                _let_go_of_output()
                where = "" if error.filename is None else f"{error.filename}: "
                raise _Refused(f"{where}{error.strerror or error}") from error


def _let_go_of_output() -> None:
    """Have what cannot be written go nowhere, lest the interpreter tries once more at its end and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Refused(click.ClickException):
    """The system refused something; the message says what."""

    exit_code = 2


@contextmanager
def _terminable() -> Iterator[None]:
    """Have a request to terminate unwind the command, so that it removes and restores what it has to at its end."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="novacron-cache %(version)s")
def main() -> None:
    """Typed, multi-tier caching: try it and look into it."""
    # A command says itself what it finds; what an application would be warned of would stand between its lines.
    logging.getLogger("novacron_cache").addHandler(logging.NullHandler())
