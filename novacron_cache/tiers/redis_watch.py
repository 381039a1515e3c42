"""Who the masters are, who said so and when: what sentinels and clusters have in common.

Theory. A master that was cut off from its deployment goes on answering: it is a zombie, and what it answers may have
been invalidated on its successor. It cannot know; those who elect masters do. So *witnesses* are asked all the time who
the masters are: the configured sentinels, or the masters of the cluster themselves. The masters are *confirmed* as of
the time at which a majority of the witnesses had been asked that named them. No answer of a master counts once the last
confirmation is older than the staleness bound: the link's horizon ends there, and the tier refuses.

The poll runs in a thread of its own, as small as can be, and so serves blocking callers and any number of event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from ..errors import TierUnavailableError
from .redis_peers import Peer, PeerLostError, Peers, packed

__all__ = ["Node", "Topology", "Watch", "confirmed"]

NEVER = float("-inf")
AT_MOST_EVERY = 0.1
"""Seconds between two rounds of questions that nobody waits for."""

_Waiter: TypeAlias = tuple[Callable[[], bool], Callable[[], None]]


@dataclass(frozen=True)
class Node:
    """One server of a deployment.

    Attributes:
        address: host:port.
        role: `master`, `replica` or `sentinel`.
        ok: whether it answers, or those who watch it think it does.
        master: the address of a replica's master, where it is known.
        slots: the slots that a master of a cluster serves, such as `0-5460`.
    """

    address: str
    role: Literal["master", "replica", "sentinel"]
    ok: bool
    master: str = ""
    slots: str = ""


@dataclass(frozen=True)
class Topology:
    """A deployment as it was last seen.

    Attributes:
        mode: `sentinel` or `cluster`.
        nodes: every server that is known.
        masters: the addresses of those that take writes.
        confirmed: whether a majority has said so within the staleness bound.
        age: seconds since that was last said; infinite when it never was.
    """

    mode: Literal["sentinel", "cluster"]
    nodes: tuple[Node, ...] = ()
    masters: tuple[str, ...] = ()
    confirmed: bool = False
    age: float = field(default=float("inf"), compare=False)


def confirmed(asked: Iterable[float], needed: int) -> float:
    """Return the time at which the last of a majority had been asked.

    Args:
        asked: when each witness that agrees was asked.
        needed: how many make a majority.
    """
    times = sorted(asked, reverse=True)
    return times[needed - 1] if 0 < needed <= len(times) else NEVER


class _Poll(Peers):
    """Asks every witness the same questions, all the time."""

    title: ClassVar[str] = "novacron_cache poll"

    def __init__(
        self, watch: Watch, questions: Sequence[Sequence[str]], beat: float, patience: float, clock: Callable[[], float]
    ) -> None:
        self._watch = weakref.ref(watch)
        self._questions = b"".join(packed(*question) for question in questions)
        self._count = len(questions)
        self._beat = beat
        self._patience = patience
        super().__init__(clock)

    def _needed(self) -> bool:
        return self._watch() is not None

    def _names(self) -> Collection[str]:
        watch = self._watch()
        return () if watch is None else watch.witnesses()

    def _state(self, name: str) -> _Question:
        return _Question()

    def _dial(self, name: str) -> tuple[Any, Any]:
        import hiredis

        watch = self._watch()
        if watch is None:
            raise PeerLostError("nobody listens")
        return watch.dial(name), hiredis.Reader(notEnoughData=Ellipsis)

    def _opened(self, peer: Peer) -> None:
        peer.state.opened()

    def _turn(self, now: float) -> float:
        pause = self._beat
        for peer in tuple(self._peers.values()):
            if peer.sock is not None:
                self.guarded(peer, self._ask)
                pause = min(pause, peer.state.wait(self._monotonic(), self._patience))
        return pause

    def ask_again(self) -> None:
        """Have every witness asked once more, from any thread; those who are being asked, once they have answered."""
        for peer in tuple(self._peers.values()):
            peer.state.due_at = 0.0
            peer.retry_at = min(peer.retry_at, self._monotonic() + 0.05)
        self.nudge()

    def _ask(self, peer: Peer) -> None:
        question: _Question = peer.state
        now = self._monotonic()
        if question.asked is not None:
            if now - question.asked > self._patience:
                raise PeerLostError("no answer in time")
        elif now >= question.due_at:
            question.asked = now
            question.due_at = now + self._beat
            peer.send(self._questions)

    def _received(self, peer: Peer, messages: list[Any]) -> bool:
        question: _Question = peer.state
        for message in messages:
            if question.asked is None:
                raise PeerLostError("an answer that nothing asked for")
            question.replies.append(message)
            if len(question.replies) == self._count:
                replies, question.replies = question.replies, []
                asked, question.asked = question.asked, None
                question.failures = 0
                watch = self._watch()
                if watch is not None:
                    watch.hear(peer.name, replies, asked)
        return True

    def _failed(self, peer: Peer, reason: str, error: Exception | None) -> float:
        watch = self._watch()
        if watch is not None:
            watch.miss(peer.name, reason, error)
        question: _Question = peer.state
        question.failures = min(question.failures + 1, 6)
        return float(min(self._beat, 0.02 * 2.0**question.failures))

    def _ended(self) -> None:
        return


class _Question:
    __slots__ = ("asked", "due_at", "failures", "replies")

    def __init__(self) -> None:
        self.failures = 0
        self.opened()

    def opened(self) -> None:
        self.asked: float | None = None
        self.due_at = 0.0
        self.replies: list[Any] = []

    def wait(self, now: float, patience: float) -> float:
        return max(0.0, (self.due_at if self.asked is None else self.asked + patience) - now)


class Watch(ABC):
    """Keeps asking the witnesses, and knows how old their word is.

    Args:
        questions: what each witness is asked.
        bound: the staleness bound, seconds.
        patience: seconds to wait for an answer.
        beat: seconds between questions; None derives it from the bound.
        monotonic: the clock.
    """

    def __init__(
        self,
        questions: Sequence[Sequence[str]],
        *,
        bound: float,
        patience: float,
        beat: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bound = bound
        self.patience = patience
        self.monotonic = monotonic
        self.problems: dict[str, str] = {}
        """What is wrong with a witness, by its name; those that answered last are not in it."""
        self.replaced: list[tuple[str, str, str]] = []
        """What is known of a master, its old and its new address, for each that was replaced; the tier empties it."""
        self.on_change: list[Callable[[], None]] = []
        """Called when the masters changed; by the thread of the poll, so it must be quick."""
        self._trusted_until = NEVER
        self._refreshed_at = NEVER
        self._poll = _Poll(self, questions, min(0.5, bound / 6) if beat is None else beat, patience, monotonic)
        self._reset()
        _watches.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []

    # -- what a deployment adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def witnesses(self) -> Collection[str]:
        """Return the names of those to ask."""

    @abstractmethod
    def dial(self, name: str) -> Any:
        """Open a connection to a witness, blocking."""

    @abstractmethod
    def heard(self, name: str, replies: list[Any], asked: float) -> bool:
        """Take in what a witness said; return whether the masters changed. Called under the lock."""

    @abstractmethod
    def masters(self) -> Collection[str]:
        """Return the masters as far as they are known; cheap."""

    @abstractmethod
    def confirmed_at(self) -> float:
        """Return when the present masters were last confirmed, monotonic seconds."""

    @abstractmethod
    def doubt(self) -> str:
        """Return in one line why the masters are not known, or not confirmed."""

    @abstractmethod
    def topology(self) -> Topology:
        """Return the deployment as it was last seen."""

    # -- for the poll -------------------------------------------------------------------------------------------------

    def hear(self, name: str, replies: list[Any], asked: float) -> None:
        """Take in what a witness said, and tell whoever it concerns."""
        with self._lock:
            self.problems.pop(name, None)
            changed = self.heard(name, replies, asked)
            if changed and self.problems:
                asked_now = set(self.witnesses())
                self.problems = {one: why for one, why in self.problems.items() if one in asked_now}
            self._trusted_until = self.confirmed_at() + self.bound
        if changed:
            for callback in tuple(self.on_change):
                callback()
        self._settle()

    def miss(self, name: str, reason: str, error: Exception | None) -> None:
        """Note that a witness could not be asked."""
        with self._lock:
            self.problems[name] = reason

    # -- for the tier -------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Begin asking, unless that has begun."""
        self._poll.ensure()

    def refresh(self) -> None:
        """Have everybody asked soon; what is known may have changed."""
        self._poll.ensure()
        now = self.monotonic()
        if now - self._refreshed_at > AT_MOST_EVERY:
            self._refreshed_at = now
            self._poll.ask_again()

    def known(self) -> Collection[str]:
        """Return the masters, having begun to ask for them."""
        self._poll.ensure()
        return self.masters()

    @property
    def trusted(self) -> bool:
        """Whether the masters are confirmed and that is not too long ago."""
        return self.monotonic() < self._trusted_until

    def require(self) -> None:
        """Return when the masters are confirmed; waits a little where they may be any moment.

        Raises:
            TierUnavailableError: they are not.
        """
        self._poll.ensure()
        if not self.trusted and not self.wait(lambda: self.trusted, self._patience):
            raise self.refusal()

    async def arequire(self) -> None:
        """Do what `require` does without blocking the running loop."""
        self._poll.ensure()
        if not self.trusted and not await self.await_(lambda: self.trusted, self._patience):
            raise self.refusal()

    @property
    def _patience(self) -> float:
        return self.patience if self._trusted_until > NEVER else 2 * self.patience  # a connection, then an answer

    def refusal(self) -> TierUnavailableError:
        """Return the error for whoever asks while the masters are not confirmed."""
        return TierUnavailableError(f"redis: {self.doubt()}", tier="redis")

    def wait(self, condition: Callable[[], bool], patience: float) -> bool:
        """Wait until something that was heard makes a condition true; return whether it did in time."""
        done = threading.Event()
        waiter = (condition, done.set)
        try:
            return not self._enlist(waiter) or done.wait(patience) or condition()
        finally:
            self._delist(waiter)

    async def await_(self, condition: Callable[[], bool], patience: float) -> bool:
        """Do what `wait` does without blocking the running loop."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def finish() -> None:
            """Have whoever waits woken, from any thread."""
            with contextlib.suppress(RuntimeError):  # that loop is closed, and its waiter with it
                loop.call_soon_threadsafe(done.set)

        waiter = (condition, finish)
        try:
            if self._enlist(waiter):
                async with asyncio.timeout(patience):
                    await done.wait()
        except TimeoutError:
            return condition()
        finally:
            self._delist(waiter)
        return True

    def close(self) -> None:
        """End the poll."""
        self._poll.stop()

    def after_fork(self) -> None:
        """Make the lock anew in a forked child, where nobody waits; what was heard stays as old as it is."""
        self._reset()

    def _enlist(self, waiter: _Waiter) -> bool:
        with self._lock:
            if waiter[0]():
                return False
            self._waiters.append(waiter)
        self._poll.ask_again()
        return True

    def _delist(self, waiter: _Waiter) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

    def _settle(self) -> None:
        if self._waiters:
            with self._lock:
                ready = [finish for condition, finish in self._waiters if condition()]
            for finish in ready:
                finish()


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _after_fork() -> None:
    for watch in tuple(_watches):
        watch.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
