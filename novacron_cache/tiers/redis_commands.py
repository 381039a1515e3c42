"""What the operations mean to a Redis or Valkey server: commands and replies, without I/O.

`Commands.plan` turns an operation into round trips, `parse` turns the replies into its result, and `steps` leads
through operations whose later trips depend on earlier replies. Whoever carries the commands adds nothing.

Keys, below the prefix `nc:<namespace>:` that an access rule can fence:

- `v:<stored key>`: a payload;
- `m:<dependency>`: the marker of a dependency, holding its current id as a decimal number, which a server keeps without
  memory of its own;
- `s:<id>:<dependency>`: comes and goes to signal that a dependency got this id;
- `l:{<stored key>}`: who loads a value (see `redis_scripts.TAKE_LEASE`);
- `s:l<id>:{<stored key>}` and `s:x<id>:{<stored key>}`: come and go to signal that such a lease has ended;
- `g:{n}`: the histories of servers that the namespace has met (see `redis_generations`);
- `o:<process>`: the figures of a process that somebody watches; `o:{o}` lists the names of such processes;
- `r:{g}`: the log of rules, newest first, each element an id and a rule. Its head is the marker of `markers.RULES`,
  named `m:{g}`: the braces put both in one slot of a cluster, where one transaction can move them together. Namespace
  and dependencies are percent-encoded, so that no other name contains a brace.

Only that pair needs a transaction. Everything else holds by order, since a marker that is lost, late or newer than its
value costs a miss and nothing else: renewals go before payloads, and no command depends on an earlier one's reply.
Every key has a time to live, so the server may run with any `volatile-*` eviction.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from ..effects import (
    DOWN,
    Capture,
    Delete,
    Ending,
    Fetch,
    Fetched,
    Hold,
    KeepLeases,
    Operation,
    Purge,
    ReadClock,
    ReadRules,
    Release,
    Renew,
    ReturnLease,
    Store,
    TakeLease,
    Taken,
    Together,
)
from ..keys import server_safe, server_unsafe
from ..leases import ENDED, IN_VAIN
from ..markers import ID_BYTES, MAX_RULES, NAMESPACE, RULES, WATCHED, new_id
from . import redis_scripts

__all__ = ["HELD", "MISSHAPEN", "SCAN_COUNT", "Batch", "Commands", "fetched"]

SCAN_COUNT: Final = 1000
"""How many keys a server looks at in one step; it does nothing else meanwhile."""
_PUBLISHERS = 1024  # how many names of processes that publish are kept, the newest
_LONGEST = 100 * 365 * 86_400.0  # seconds; the server refuses what overflows its clock
_GENERATION_LIFE = 365 * 86_400.0  # seconds
DONE_LIFE: Final = 0.25
"""Seconds for which a lease that has ended says that a value was stored: longer than from looking to asking."""
_TRANSIT = 0.02  # seconds that a question may take to arrive; where it takes longer, a value may be loaded twice
_WAIT = 100  # ms that the server may wait for its replicas; it looks at its clock ten times a second


class Batch(NamedTuple):
    """Commands that travel in one round trip.

    Attributes:
        commands: each a tuple of the command's name and arguments.
        holds: whether a marker may turn out to be held, which is then the command's reply: `HELD`.
        spare: how many commands, at the end, may fail without the others; `DOWN` is then their reply.
        echo: what it has the server tell those who listen for signals, as it travels, where the asker knows it all; it
            need not be told so. Such a batch is one script, which may be carried out twice.
    """

    commands: list[tuple[Any, ...]]
    holds: bool = False
    spare: int = 0
    echo: bytes = b""


HELD: Final = object()
"""The reply to a command that wanted the id of a marker that is held."""


MISSHAPEN: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What reading an answer raises that is not what was asked for: the server is none, or something stands before it."""

_TIME = Batch([("TIME",)])


class Commands:
    """Turns operations into commands and replies into results; pure, for one namespace.

    Args:
        namespace: keeps applications apart on one server.

    Attributes:
        in_order: whether the commands of one batch are carried out one after the other, wherever their keys live.
    """

    in_order: ClassVar[bool] = True

    def __init__(self, namespace: str) -> None:
        # Without a colon of its own, a namespace cannot reach into another's keys.
        self._prefix = f"nc:{server_safe(namespace).replace(':', '%3A')}:"
        self._value = self._prefix + "v:"
        self._marker = self._prefix + "m:"
        self._log = f"{self._prefix}r:{{{RULES}}}"
        self._published = self._prefix + "o:"
        self._publishers = f"{self._published}{{{WATCHED}}}"
        self.signals = self._prefix + "s:"
        """The prefix of the keys whose names tell other processes what was invalidated."""

    def value_key(self, key: str) -> str:
        """Return the server's key of a payload."""
        return self._value + key

    def marker_key(self, dep: str) -> str:
        """Return the server's key of a dependency's marker."""
        # In braces, so that a marker, its signals and, for the rules, the log share a slot.
        return f"{self._marker}{{{server_safe(dep)}}}"

    def signal_key(self, dep: str, marker_id: bytes) -> str:
        """Return the key whose coming and going says that a dependency got this id."""
        return f"{self.signals}{marker_id.hex()}:{{{server_safe(dep)}}}"

    def lease_keys(self, key: str, holder: bytes, ending: Ending) -> tuple[str, str]:
        """Return the keys of a lease and of the signal that it has ended; a stored key contains no braces."""
        # What tells them from the signals of markers is no hexadecimal digit.
        letter = (IN_VAIN if ending is Ending.IN_VAIN else ENDED)[0]
        return f"{self._prefix}l:{{{key}}}", f"{self.signals}{letter}{holder.hex()}:{{{key}}}"

    def parse_signal(self, key: bytes) -> tuple[str, bytes] | None:
        """Return the (dependency, id) of a signal key, or None for any other key.

        That of a lease gives a stored key behind what `leases` calls its end, and the id of its holder.
        """
        text = key.decode("utf-8", "surrogateescape")
        marker_id, colon, dep = text[len(self.signals) :].partition(":")
        if not text.startswith(self.signals) or not colon or dep[:1] != "{" or dep[-1:] != "}":
            return None
        try:
            if (kind := marker_id[:1] + ":") in (ENDED, IN_VAIN):
                return kind + dep[1:-1], bytes.fromhex(marker_id[1:])
            return server_unsafe(dep[1:-1]), bytes.fromhex(marker_id)
        except ValueError:
            return None

    def plan(self, operation: Operation) -> list[Batch]:
        """Return the round trips of an operation; none where there is nothing to do.

        `Purge` has no plan: how many trips it takes depends on the replies. See `steps`.
        """
        match operation:
            case Fetch(keys, deps):
                names = [self._value + key for key in keys]
                names += map(self.marker_key, deps)
                return [Batch([("MGET", *names)])] if names else []
            case Capture(deps, life, renew):
                return _batches(self._renew(renew, life) + self._capture(deps, life), holds=True)
            case Store():
                return _batches(self._store(operation))
            case Renew(markers, life, rules, replicas):
                commands = self._renew(markers, life) + self._append(rules, life)
                if operation.obeyed and len(commands) == 1 and not rules and not replicas:
                    return [Batch(commands, echo=_signal(commands[0][4]))]
                return _batches([*commands, ("WAIT", replicas, _WAIT)] if replicas else commands)
            case Hold(deps, holder, seconds):
                return _batches([self._hold(dep, holder, seconds) for dep in deps])
            case Release(markers, holder, life):
                return _batches([self._set_marker(dep, id_, life, holder) for dep, id_ in markers])
            case ReadRules():
                return [Batch([("LRANGE", self._log, 0, MAX_RULES - 1)])]
            case ReadClock():
                return [_TIME]
            case TakeLease() | KeepLeases() | ReturnLease():
                commands = self._lease(operation)
                return [Batch(commands, spare=len(commands))] if commands else []
            case Delete(keys):
                return [Batch([("UNLINK", *(self._value + key for key in keys))])] if keys else []
            case _:
                raise TypeError(f"no plan for {operation!r}")

    def parse(self, operation: Operation, plan: Sequence[Batch], replies: Sequence[Any]) -> Any:
        """Return the result of an operation.

        Args:
            operation: what was asked.
            plan: what `plan` returned for it; ids are chosen there.
            replies: one for each command of the plan, as they came.
        """
        match operation:
            case Fetch(keys, deps):
                found = replies[0] if replies else []
                if not isinstance(found, list) or len(found) != len(keys) + len(deps):
                    raise TypeError("not an answer to MGET")
                return fetched(operation, found)
            case Capture(deps, _, renew):
                offered = plan[0].commands[len(renew) :] if plan else []
                found = list(replies[len(renew) : len(renew) + len(deps)])
                # `SET ... NX GET` answers with the id that was there, or with nothing when ours went in.
                return [_id_of(offered[i][2] if one is None else one) for i, one in enumerate(found)]
            case Renew(replicas=replicas) if replicas:
                return int(replies[-1]) >= replicas
            case Hold():
                return [bool(reply) for reply in replies]
            case ReadRules():
                return [(element[:ID_BYTES], element[ID_BYTES:]) for element in replies[0]]
            case ReadClock():
                return _time(list(replies))
            case KeepLeases():
                # One that could not be asked about may still be kept next time.
                return [reply is DOWN or bool(reply) for reply in replies]
            case _:
                return True

    def steps(self, operation: Operation) -> Generator[Batch, list[Any], Any]:
        """Yield each round trip of an operation, expect its replies, and return the operation's result."""
        if isinstance(operation, Purge):
            return (yield from self._purge())
        if isinstance(operation, Together):
            return (yield from self._together(operation))
        replies: list[Any] = []
        plan = self.plan(operation)
        for batch in plan:
            replies += yield batch
        if isinstance(operation, TakeLease):
            return (yield from self._take(operation, replies[0]))
        result = self.parse(operation, plan, replies)
        if isinstance(operation, Capture) and None in result:
            held = [position for position, one in enumerate(result) if one is None]
            found = replies[len(operation.renew) :]
            again = yield Batch([self._capture_held(operation.deps[i], operation.life, found[i]) for i in held])
            for position, one in zip(held, again, strict=True):
                result[position] = _id_of(one)
        return result

    def _together(self, operation: Together) -> Generator[Batch, list[Any], tuple[Any, Any]]:
        """Send the first batch of the one with the other; or the other afterwards, where it might come first."""
        first, then = operation.first, operation.then
        steps, (aside,) = self.steps(first), self.plan(then)
        apart = isinstance(then, ReturnLease) and not self.in_order
        extra: list[Any] = []
        try:
            batch = next(steps)
            if not apart:
                count = len(batch.commands)
                replies = yield Batch([*batch.commands, *aside.commands], batch.holds, aside.spare)
                extra, replies = replies[count:], replies[:count]
                batch = steps.send(replies)
            while True:
                batch = steps.send((yield batch))
        except StopIteration as done:
            result = done.value
        if not extra:
            extra = yield aside
        if isinstance(then, TakeLease):
            return result, (yield from self._take(then, extra[0]))
        return result, self.parse(then, [aside], extra)

    def _take(self, operation: TakeLease, reply: Any) -> Generator[Batch, list[Any], Any]:
        """Ask again, for longer, where a lease was not simply free; return the operation's result."""
        if not isinstance(reply, bytes):
            return reply
        name, _ = self.lease_keys(operation.key, operation.holder, Ending.STORED)
        old = max(0.0, 1000 * (DONE_LIFE - operation.looked - _TRANSIT))
        more = (operation.holder, _milliseconds(operation.seconds), operation.seen, math.floor(old))
        (reply,) = yield Batch([("EVAL", redis_scripts.TAKE_LEASE, 1, name, *more)], spare=1)
        return _taken(*reply) if isinstance(reply, list) else reply

    def _lease(self, operation: TakeLease | KeepLeases | ReturnLease) -> list[tuple[Any, ...]]:
        match operation:
            case TakeLease(key, holder, seconds):
                name, _ = self.lease_keys(key, holder, Ending.STORED)
                return [("SET", name, b"h" + holder, "NX", "GET", "PX", _milliseconds(seconds))]
            case KeepLeases(leases, seconds):
                px = _milliseconds(seconds)
                names = [self.lease_keys(key, holder, Ending.STORED)[0] for key, holder in leases]
                return [
                    ("EVAL", redis_scripts.KEEP_LEASE, 1, name, holder, px)
                    for name, (_, holder) in zip(names, leases, strict=True)
                ]
            case ReturnLease(key, holder, ending):
                stays = _milliseconds(DONE_LIFE) if ending is Ending.STORED else 0
                return [("EVAL", redis_scripts.RETURN_LEASE, 2, *self.lease_keys(key, holder, ending), holder, stays)]

    def _capture(self, deps: Sequence[str], life: float) -> list[tuple[Any, ...]]:
        px = _milliseconds(life)
        names = list(map(self.marker_key, deps))
        # A marker that was there keeps its id but must outlive the value; GT never shortens.
        return [("SET", name, _number(new_id()), "NX", "GET", "PX", px) for name in names] + [
            ("PEXPIRE", name, px, "GT") for name in names
        ]

    def _store(self, operation: Store) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = [
            ("SET", self._value + item.key, item.payload, "PX", _milliseconds(item.ttl)) for item in operation.items
        ]
        if operation.new_only:
            commands = [(*command, "NX") for command in commands]
        px = _milliseconds(operation.life)
        commands += [("PEXPIRE", self.marker_key(dep), px, "GT") for dep in operation.extend]
        return commands

    def _renew(self, markers: Sequence[tuple[str, bytes]], life: float) -> list[tuple[Any, ...]]:
        return [self._set_marker(dep, marker_id, life) for dep, marker_id in markers]

    def _set_marker(self, dep: str, marker_id: bytes, life: float, holder: bytes | None = None) -> tuple[Any, ...]:
        if holder is None:
            safe = server_safe(dep)  # once for `marker_key` and `signal_key`, in what others may be waiting for
            signal = f"{self.signals}{marker_id.hex()}:{{{safe}}}"
            ends = (_number(marker_id), _milliseconds(life))
            return ("EVAL", redis_scripts.RENEW, 2, f"{self._marker}{{{safe}}}", signal, *ends)
        keys = (self.marker_key(dep), self.signal_key(dep, marker_id))
        return ("EVAL", redis_scripts.RELEASE, 2, *keys, _number(marker_id), _milliseconds(life), holder)

    def _hold(self, dep: str, holder: bytes, seconds: float) -> tuple[Any, ...]:
        keys = (self.marker_key(dep), self.signal_key(dep, holder))
        return ("EVAL", redis_scripts.HOLD, 2, *keys, holder, _milliseconds(seconds))

    def _capture_held(self, dep: str, life: float, found: Any) -> tuple[Any, ...]:
        offer = (self.marker_key(dep), _number(new_id()), _milliseconds(life))
        return ("EVAL", redis_scripts.CAPTURE_HELD, 1, *offer, *([found] if isinstance(found, bytes) else []))

    def generation(self, replid: str, others: Sequence[str], life: float) -> tuple[Any, ...]:
        """Return the command that has a server's history known, and the namespace invalidated where one is new there.

        Its reply is for how many seconds the history has been known.

        Args:
            replid: the history of the server that a connection leads to.
            others: histories that this process has met before; a list that lacks one of them is out of date.
            life: seconds that the namespace's marker lives at least.
        """
        fresh = new_id()
        keys = (self.marker_key(NAMESPACE), self.signal_key(NAMESPACE, fresh), f"{self._prefix}g:{{{NAMESPACE}}}")
        ends = (_milliseconds(life), _milliseconds(_GENERATION_LIFE), replid, *others)
        return ("EVAL", redis_scripts.GENERATION, 3, *keys, _number(fresh), *ends)

    def at(self, server: str, command: tuple[Any, ...]) -> Batch:
        """Return what asks one server something, wherever the keys are that it names."""
        return Batch([command])

    def publish(self, process: str, snapshot: bytes, life: float) -> Batch:
        """Return the commands that keep a process's figures for a while, where `publishers` finds its name."""
        px = _milliseconds(life)
        kept = ("SET", self._published + server_safe(process), snapshot, "PX", px)
        # Not found by scanning: that would take as long as the server holds keys.
        enlist = ("EVAL", redis_scripts.ENLIST, 1, self._publishers, server_safe(process), _PUBLISHERS, px)
        return Batch([kept, enlist])

    def publishers(self) -> Batch:
        """Return the command that reads the names of processes that published, some of them twice."""
        return Batch([("LRANGE", self._publishers, 0, _PUBLISHERS - 1)])

    def published(self, processes: Sequence[bytes]) -> Batch | None:
        """Return the command that reads the figures of the processes with these names, or None where there are none."""
        names = list(dict.fromkeys(self._published + name.decode("ascii", "replace") for name in processes))
        return Batch([("MGET", *names)]) if names else None

    def _append(self, rules: Sequence[tuple[bytes, bytes]], life: float) -> list[tuple[Any, ...]]:
        if not rules:
            return []
        keys = (self.marker_key(RULES), self.signal_key(RULES, rules[-1][0]), self._log)
        elements = [rule_id + rule for rule_id, rule in rules]
        ends = (_number(rules[-1][0]), _milliseconds(life), MAX_RULES - 1)
        return [("EVAL", redis_scripts.APPEND, 3, *keys, *ends, *elements)]

    def _purge(self) -> Generator[Batch, list[Any], bool]:
        pattern = self._value + "*"  # an encoded namespace has no glob characters
        cursor: Any = 0
        while True:
            (reply,) = yield Batch([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
            cursor, keys = reply
            if keys:
                yield Batch([("UNLINK", *keys)])
            if int(cursor) == 0:
                return True


def fetched(operation: Fetch, found: list[Any], *, whole: bool = True) -> Fetched:
    """Return the result of a read from what the server has for each of its keys and dependencies, in their order.

    Args:
        operation: what was asked.
        found: what there was; None for what is not there.
        whole: as `Fetched` has it.
    """
    count = len(operation.keys)
    return Fetched(found[:count], list(map(_id_of, found[count:])), whole)


def _number(marker_id: bytes) -> bytes:
    """Return an id as its marker holds it."""
    return b"%d" % int.from_bytes(marker_id, "big", signed=True)


def _id_of(number: Any) -> bytes | None:
    """Return the id that a marker holds; None where there is none, or something that no process here has put there."""
    if not isinstance(number, bytes):
        return None
    try:
        marker_id = int(number).to_bytes(ID_BYTES, "big", signed=True)
    except (ValueError, OverflowError):
        return None
    return marker_id if _number(marker_id) == number else None


def _batches(commands: list[tuple[Any, ...]], *, holds: bool = False) -> list[Batch]:
    return [Batch(commands, holds)] if commands else []


def _signal(key: str) -> bytes:
    """Return what a listener is told when a signal key comes and goes, as it travels."""
    name = key.encode()
    return b">2\r\n$10\r\ninvalidate\r\n*1\r\n$%d\r\n%b\r\n" % (len(name), name)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(min(seconds, _LONGEST) * 1000))


def _taken(state: bytes, left: int) -> Taken:
    return Taken(state[1:], max(left, 1) / 1000, done=state[:1] == b"d")


def _time(replies: list[Any]) -> float:
    whole, micro = replies[0]
    return int(whole) + int(micro) / 1e6
