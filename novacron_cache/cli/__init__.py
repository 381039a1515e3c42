"""`novacron-cache`, the command line: one module for each command, loaded when it is asked for.

Starting must not cost more than the answer is worth, so nothing here imports redis, rich or pydantic, and neither may a
command's module at its top: it declares arguments and options, and imports the rest when it runs.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Final

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
    "logs": "servers:logs",
    "monitor": "monitor:monitor",
    "restart": "servers:restart",
    "restore": "backup:restore",
    "scan": "scan:scan",
    "setup": "servers:setup",
    "start": "servers:start",
    "stats": "stats:stats",
    "status": "servers:status",
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


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Typed, multi-tier caching: try it and look into it."""
    # A command says itself what it finds; what an application would be warned of would stand between its lines.
    logging.getLogger("novacron_cache").addHandler(logging.NullHandler())
