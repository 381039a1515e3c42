"""Which history of the server a connection leads to: nothing that an older one kept may be believed.

A server that comes back from a snapshot, or a replica that is promoted without the last writes of its master, has old
markers beside old values, and they match. What tells is the name of the server's history (`master_replid`): a server
draws a new one whenever it begins to take writes that no other has. So the namespace keeps a list of the histories it
has met. Each new connection reads where it leads; a history that is not in the list is entered, and in the same step
the namespace gets a new id: whatever was stored before is invalid. A list that was itself rolled back lacks the new
name all the same.

A process that meets a new history, having known another, has one thing more to do: what it invalidated lately may have
been acknowledged by a server that was no longer the one that counts. And a list may be out of date in its turn: a
process that is led back to a server that was replaced, and never noticed, tells it of the histories it has met
meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from ..errors import TierUnavailableError

Step = tuple[Any, ...]
MAX_MET = 64
"""How many histories a process remembers."""
MAX_PLACES = 256
"""How many of several servers are known by their history; one that is met again after so many counts as new."""


class Command(Protocol):
    """Makes the command that has histories entered in the namespace's list."""

    def __call__(self, replid: str, others: Sequence[str], /) -> Step:
        """Return the command; see `Commands.generation`."""
        ...


class Generations:
    """What a process knows of the server's histories.

    Args:
        command: makes the command that enters them.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self._met: dict[str, None] = {}
        self._at: dict[str, str] = {}
        self.encounters = 0
        """How many places were met for the first time after another one."""
        self.changed: Callable[[float], Callable[[], None]] | None = None
        """Called when a connection leads to another history than those before, with the seconds for which that has been
        known to the fleet, before the connection is used; what it returns is called a moment later."""
        self.reset()

    def reset(self) -> None:
        """Make the lock anew in a forked child."""
        self._lock = threading.Lock()

    def greet(self, place: str = "") -> Generator[Step, Any, None]:
        """Yield the commands that a new connection sends before any other, expecting their replies.

        Args:
            place: which of several servers it is; one that says another history than before was replaced.

        Raises:
            TierUnavailableError: the server is a replica; what it has may be old. Or it is no server of this kind.
        """
        text = (yield ("INFO", "replication", "cluster")).decode("utf-8", "replace")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        role, replid = fields.get("role", ""), fields.get("master_replid", "")
        if not role:
            raise TierUnavailableError(
                "redis.url leads to a sentinel; set redis.mode to 'sentinel', and name it in redis.addresses",
                tier="redis",
            )
        if fields.get("cluster_enabled") == "1" and not place:
            raise TierUnavailableError(
                "the server is a node of a cluster; set redis.mode to 'cluster', and name it in redis.addresses",
                tier="redis",
            )
        if role != "master":
            raise TierUnavailableError(f"the server is a {role}, not a master", tier="redis")
        if self._at.get(place) == replid:
            return
        known_for = float((yield self._command(replid, [one for one in self._met if one != replid])))
        announce = None
        with self._lock:
            # Whoever finds the history noted here may use a connection at once, so the process is told before that.
            if self._at.get(place, replid) != replid and self.changed is not None:
                announce = self.changed(known_for)
            self.encounters += bool(self._at) and place not in self._at
            self._at[place] = replid
            while len(self._at) > MAX_PLACES:
                del self._at[next(one for one in self._at if one != place)]
            # Never changed in place: another connection may be looking at it.
            self._met = dict.fromkeys([*self._met, replid][-MAX_MET:])
        if announce is not None:
            announce()


def greeting(generations: Generations) -> Callable[[Any], None]:
    """Return what a blocking connection does first."""

    def greet(connection: Any) -> None:
        connection.on_connect()
        steps = generations.greet()
        try:
            command = next(steps)
            while True:
                connection.send_command(*command, check_health=False)
                command = steps.send(connection.read_response())
        except StopIteration:
            return
        except BaseException:
            # Also when it was interrupted: a connection that was not checked must not be found open.
            connection.disconnect()
            raise

    return greet


def agreeting(generations: Generations) -> Callable[[Any], Any]:
    """Return what an asynchronous connection does first."""

    async def greet(connection: Any) -> None:
        """Greet a new connection."""
        await connection.on_connect()
        steps = generations.greet()
        try:
            command = next(steps)
            while True:
                await connection.send_command(*command, check_health=False)
                command = steps.send(await connection.read_response())
        except StopIteration:
            return
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    return greet
