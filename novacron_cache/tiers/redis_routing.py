"""Which node of a cluster each command of a batch goes to, and what to do about what comes back; pure.

The slots of a cluster move while it is used. A node that has given a slot away says where it went (`MOVED`), one that
is giving it away says where to ask for this key just now (`ASK`), and where the keys of one command are in both places
it says `TRYAGAIN`. Each is obeyed, a few times at most; a node that fails is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from .redis_nodes import host_port, joined

__all__ = ["Routing", "Sent", "key_of", "slot_of"]

MAX_HOPS: Final = 5
TRYAGAIN_PAUSE: Final = 0.02
"""Seconds to wait before a command is tried again, times the number of attempts."""

_KEYLESS = frozenset({"TIME", "PING", "INFO", "SCAN", "WAIT"})
_PENDING: Final = object()


def key_of(command: Sequence[Any]) -> Any:
    """Return the key that decides where a command goes; None where it has none."""
    if command[0] in _KEYLESS:
        return None
    return command[3] if command[0] == "EVAL" else command[1]


def slot_of(key: Any) -> int:
    """Return the slot in which a key lives."""
    from redis.crc import key_slot

    return int(key_slot(key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")))


class Sent(NamedTuple):
    """A command on its way to a node.

    Attributes:
        position: its place in the batch.
        command: what is asked.
        asking: whether the node is told beforehand that it has been named by `ASK`.
    """

    position: int
    command: Sequence[Any]
    asking: bool


class Routing:
    """The commands of one batch that are under way.

    A `WAIT` goes to every node, behind what it is sent besides, and the smallest answer counts.

    Args:
        commands: the commands.
        place: returns the address for a command as far as it is known now; empty where nobody serves it.
        moved: told (slot, address) when a slot has moved.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[Any]],
        place: Callable[[Sequence[Any]], str],
        moved: Callable[[int, str], None],
    ) -> None:
        self.pause = 0.0
        """Seconds to wait before the commands that are left travel again."""
        self.lost: set[str] = set()
        """The nodes that did not answer, or answered that they cannot serve these keys now."""
        self._waits = [position for position, command in enumerate(commands) if command[0] == "WAIT"]
        self._last = [commands[position] for position in self._waits[:1]]
        self._commands = [command for command in commands if command[0] != "WAIT"]
        self._replies: list[Any] = [_PENDING] * len(self._commands)
        self._acknowledged: list[Any] = []
        self._place = place
        self._moved = moved
        self._hops = [0] * len(self._commands)
        self._asked: dict[int, str] = {}

    @property
    def replies(self) -> list[Any]:
        """One for each command; that of a node that failed is its exception."""
        replies = list(self._replies)
        for position in self._waits:
            replies.insert(position, min(self._acknowledged, default=0))
        return replies

    def groups(self) -> dict[str, list[Sent]]:
        """Return what still has to travel, by address; in the order of addresses, so that callers do not lock up."""
        groups: dict[str, list[Sent]] = {}
        for index, reply in enumerate(self._replies):
            if reply is _PENDING:
                address = self._asked.get(index) or self._place(self._commands[index])
                groups.setdefault(address, []).append(Sent(index, self._commands[index], index in self._asked))
        self._asked = {}
        self.pause = 0.0
        return dict(sorted(groups.items()))

    def wire(self, sent: Sequence[Sent]) -> list[Sequence[Any]]:
        """Return what is really sent to a node."""
        asking = ("ASKING",)
        return [command for one in sent for command in ((asking, one.command) if one.asking else (one.command,))] + [
            *self._last
        ]

    def failed(self, address: str, sent: Sequence[Sent], error: Exception) -> None:
        """Note that a node did not answer."""
        self.lost.add(address)
        for one in sent:
            self._replies[one.position] = error

    def answered(self, address: str, sent: Sequence[Sent], replies: Sequence[Any]) -> None:
        """Note what a node answered; what was sent elsewhere is left to travel again.

        Args:
            address: the node's.
            sent: what it was sent.
            replies: one for each command of `wire`.
        """
        if self._last:
            self._acknowledged.append(replies[-1])
        answers = iter(replies)
        for one in sent:
            if one.asking:
                next(answers)
            self._answered(address, one, next(answers))

    def _answered(self, address: str, one: Sent, reply: Any) -> None:
        from redis.exceptions import AskError, ClusterDownError, MovedError, OutOfMemoryError, TryAgainError

        index = one.position
        if not isinstance(reply, AskError | TryAgainError) or self._hops[index] == MAX_HOPS:
            self._replies[index] = reply
            if isinstance(reply, AskError | TryAgainError | ClusterDownError | OutOfMemoryError):
                self.lost.add(address)
            return
        self._hops[index] += 1
        if isinstance(reply, TryAgainError):
            self.pause = max(self.pause, TRYAGAIN_PAUSE * self._hops[index])
            if one.asking:
                self._asked[index] = address
        elif isinstance(reply, MovedError):
            self._moved(reply.slot_id, _target(reply, address))
        else:
            self._asked[index] = _target(reply, address)


def _target(error: Any, asked: str) -> str:
    # A node that was not told its own name leaves out the host: it is the one that was asked.
    return joined(error.host.strip("[]") or host_port(asked)[0], error.port)
