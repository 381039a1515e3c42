"""What a scenario is given, and the list that the command and the tests run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import ServerProcess, redis_binary, running, valkey_binary

from .report import Outcome

BINARIES: dict[str, Callable[[], Path | None]] = {"valkey": valkey_binary, "redis7": redis_binary}


@dataclass
class Stage:
    """What a scenario runs on.

    Attributes:
        server: `valkey`, `redis7`, or `none` for those that need no server.
        binary: that server.
        long: whether the figures are wanted, not only a look whether the promises hold.
        soak_seconds: how long the soak takes; 0 leaves that to its form.
        soak_keys: how many different keys it uses before it begins again.
    """

    server: str
    binary: Path
    long: bool = False
    soak_seconds: float = 0.0
    soak_keys: int = 1_000_000

    @property
    def bound(self) -> float:
        """The staleness bound that the caches are given: the default one, or a shorter one to save time."""
        return 3.0 if self.long else 1.0

    @property
    def workers(self) -> int:
        """How many processes read and write."""
        return 4 if self.long else 3

    def milliseconds(self, short: int, long: int) -> int:
        return long if self.long else short

    def seconds(self, short: float, long: float) -> float:
        return long if self.long else short

    @contextlib.contextmanager
    def running(self, *args: str) -> Iterator[ServerProcess]:
        """Run the server for the length of a block."""
        with running(self.binary, args=args) as server:
            yield server

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """Have a directory for the length of a block."""
        with tempfile.TemporaryDirectory(prefix="ncf-") as name:
            yield Path(name)


@dataclass
class Scenario:
    """One row of the table of fault tests."""

    number: int
    name: str
    title: str
    run: Callable[[Stage, Outcome], None]
    needs_server: bool = True

    def play(self, stage: Stage) -> Outcome:
        """Run it and return what was found."""
        outcome = Outcome(self.number, self.name, self.title, stage.server if self.needs_server else "none")
        self.run(stage, outcome)
        return outcome


def at(url: str) -> dict[str, Any]:
    """The settings of a cache on a server."""
    return {"redis": {"url": url}}


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    number: int, name: str, title: str, *, server: bool = True
) -> Callable[[Callable[[Stage, Outcome], None]], Callable[[Stage, Outcome], None]]:
    """Enter a function into the list of scenarios."""

    def enter(run: Callable[[Stage, Outcome], None]) -> Callable[[Stage, Outcome], None]:
        SCENARIOS[name] = Scenario(number, name, title, run, server)
        return run

    return enter
