"""The link over one RESP3 connection of its own to each master, in one thread."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Protocol

from ..tiers.redis_peers import Peer, PeerLostError, Peers, answers, packed
from ..tiers.redis_sockets import Sockets
from .machine import Answer, LinkMachine, LinkState
from .switching import SWITCHING
from .waiters import Waiters


class Subscriber(Protocol):
    """Who listens to a link; all methods are called from the link's thread."""

    def link_up(self, valid_until: float) -> None:
        """Signals arrive from now on; nothing before is vouched for."""

    def link_beat(self, valid_until: float) -> None:
        """Every signal sent until `valid_until` minus the bound has arrived."""

    def link_lost(self, reason: str) -> None:
        """Signals may have been missed since the last beat."""

    def signalled(self, signals: list[tuple[str, bytes]]) -> None:
        """Dependencies got these new ids."""


_HEARTBEAT = packed("INFO", "replication")


class _Crowd:
    """Those who wait for a barrier together: each master has to answer a question put after they came."""

    __slots__ = ("finishes", "to_answer", "to_ask")

    def __init__(self, finishes: list[Callable[[bool], None]], names: Collection[str]) -> None:
        self.finishes = finishes
        self.to_ask = set(names)
        self.to_answer: set[str] = set()


class TrackingLink(Peers):
    """Keeps one connection to each master and tells its subscriber what is signalled there.

    It is up while all of them are: what it vouches for is what every master has vouched for.

    Args:
        connect: opens a connection that has spoken RESP3 and logged in; returns an object with `_sock`, as
            redis-py's connections have, and `disconnect()`. Called with the master's name where that is not empty.
        prefix: the prefix of the signal keys.
        parse: turns a signal key into (dependency, new id), or None for a key that is none.
        subscriber: told what happens; held weakly.
        bound: the staleness bound, seconds.
        beat: seconds between heartbeats; None derives it from the bound.
        monotonic: the clock of the hits.
        masters: returns the names of the masters as they are known now; None stands for one without a name.
        confirmed: returns the time at which those who decide last said that these are the masters; None where nobody
            decides.
        switch_interval: seconds for which a thread may wait for the interpreter while the link's thread runs, unless
            others are more impatient; None leaves that alone.
    """

    title: ClassVar[str] = "novacron_cache link"

    def __init__(
        self,
        connect: Callable[..., Any],
        *,
        prefix: str,
        parse: Callable[[bytes], tuple[str, bytes] | None],
        subscriber: Subscriber,
        bound: float,
        beat: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        masters: Callable[[], Collection[str]] | None = None,
        confirmed: Callable[[], float] | None = None,
        switch_interval: float | None = None,
    ) -> None:
        self._connect_to = connect
        self._prefix = prefix
        self._parse = parse
        self._subscriber = weakref.ref(subscriber)
        self._bound = bound
        self._beat_every = beat
        self._masters = masters
        self._confirmed = confirmed
        self._switch_interval = switch_interval
        super().__init__(monotonic)

    def _reset(self) -> None:
        super()._reset()
        self._now_state = LinkState.CONNECTING
        self._beginning_to_listen = True
        self._valid_until = 0.0
        self._waiters = Waiters(self._listening, self.nudge)
        self._crowd: _Crowd | None = None
        self._dropped: str | None = None
        self._sole: Peer | None = None

    @property
    def state(self) -> LinkState:
        """Where the link is."""
        return self._now_state

    def stop(self) -> None:
        """End the thread, close the connections and fail whoever waits for a barrier."""
        super().stop()
        self._now_state = LinkState.STOPPED
        self._release_all()

    def drop(self, reason: str) -> None:
        """Have the link begin anew, as if it had been lost for this reason; a connection just being opened goes on."""
        if not self.beginning:
            self._dropped = reason
            self.nudge()

    # -- the barrier --------------------------------------------------------------------------------------------------

    def barrier(self, patience: float) -> bool:
        """Wait until every signal sent before this call has been handled; False when the link cannot say so."""
        return self._waiters.wait(patience)

    async def abarrier(self, patience: float) -> bool:
        """Do what `barrier` does without blocking the running loop."""
        return await self._waiters.await_(patience)

    def _listening(self) -> bool:
        # One that was lost, or never came up, may take long to be back: nobody waits for that.
        coming = self._beginning_to_listen and self._thread is not None
        return (coming or self._now_state is LinkState.UP) and not self._stopping.is_set()

    def _release_all(self) -> None:
        crowd, self._crowd = self._crowd, None
        self._waiters.release(False)
        if crowd is not None:
            self._waiters.release(False, crowd.finishes)

    # -- what this process signals itself -----------------------------------------------------------------------------

    def expect(self) -> Peer | None:
        """Have the thread sleep through what arrives until `take`, which must follow soon; None where it cannot.

        For a thread that is about to send what will be signalled back, which is no news here. It must not be kept from
        an answer: while there is a question, nothing is slept through, and putting one ends the sleep.
        """
        peer, watched = self._sole, self._sockets
        if peer is None or watched is None:
            return None
        with self._receiving:
            if peer.sock is None or peer.ignored or peer.state.outstanding:
                return None
            peer.ignored = watched.ignore(peer.sock)
            return peer if peer.ignored else None

    def take(self, peer: Peer, echo: bytes) -> None:
        """Take off what was expected, where nothing came before it, and have the thread woken again.

        Whatever else has arrived stays where it is, and wakes the thread at once.

        Args:
            peer: what `expect` returned.
            echo: the signal as it travels; it holds an id that was never sent before, so no part of another is like it.
        """
        with self._receiving:
            sock = peer.sock
            if sock is None:
                return
            try:
                if sock.recv(len(echo), socket.MSG_PEEK) == echo:
                    sock.recv(len(echo))
            except OSError:
                pass  # nothing has come yet; or it is lost, and the thread will notice as well
            finally:
                self._heed(peer)

    def _heed(self, peer: Peer) -> None:
        if peer.ignored and peer.sock is not None and self._sockets is not None:
            peer.ignored = False
            self._sockets.heed(peer.sock)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with SWITCHING.at_most(self._switch_interval):
            super()._run()

    def _needed(self) -> bool:
        return self._subscriber() is not None

    def _names(self) -> Collection[str]:
        return ("",) if self._masters is None else self._masters()

    def _state(self, name: str) -> LinkMachine:
        return LinkMachine(self._bound, self._beat_every)

    def _dial(self, name: str) -> tuple[Any, Any]:
        import hiredis

        connection = self._connect_to(name) if name else self._connect_to()
        try:
            connection._sock.settimeout(self._bound / 2)
            reader = hiredis.Reader(notEnoughData=Ellipsis)
            tracking = packed("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
            (reply,) = answers(connection._sock, reader, [tracking])
            if reply != b"OK":
                raise PeerLostError(f"tracking was refused: {reply}")
        except BaseException:
            with contextlib.suppress(Exception):  # it is being thrown away
                connection.disconnect()
            raise
        return connection, reader

    def _opened(self, peer: Peer) -> None:
        peer.state.connected(self._monotonic())
        if self._now_state is not LinkState.UP:
            self._now_state = LinkState.ARMING

    def _turn(self, now: float) -> float:
        dropped, self._dropped = self._dropped, None
        if dropped is not None:
            for peer in tuple(self._peers.values()):
                self._forsake(peer, dropped)
        if self._now_state is LinkState.UP and now >= self._valid_until and self._confirmed is not None:
            self._lose("the masters are not confirmed any more", news=True)
        # Whoever waits from here on waits for the next question: this one may be answered before their call.
        if self._now_state is LinkState.UP and self._crowd is None and (finishes := self._waiters.take()):
            self._crowd = _Crowd(finishes, self._peers)
        for peer in tuple(self._peers.values()):
            if peer.sock is not None:
                self.guarded(peer, self._beat)
        now = self._monotonic()
        waits = [peer.state.wait(now) for peer in self._peers.values() if peer.sock is not None]
        return min(waits, default=self._bound)

    def _forsake(self, peer: Peer, reason: str) -> None:
        def fail(_: Peer) -> None:
            raise PeerLostError(reason)

        if peer.sock is not None:
            self.guarded(peer, fail)

    def _beat(self, peer: Peer) -> None:
        machine: LinkMachine = peer.state
        now = self._monotonic()
        if machine.overdue(now):
            raise PeerLostError("no answer")
        crowd = self._crowd
        urgent = crowd is not None and peer.name in crowd.to_ask and not machine.outstanding
        if machine.beat_due(now) or urgent:
            with self._receiving:
                self._heed(peer)
                machine.asked(now)
            if crowd is not None and peer.name in crowd.to_ask:
                crowd.to_ask.discard(peer.name)
                crowd.to_answer.add(peer.name)
            peer.send(_HEARTBEAT)

    def _received(self, peer: Peer, messages: list[Any]) -> bool:
        signals: list[tuple[str, bytes]] = []
        answered = False
        for message in messages:
            if isinstance(message, list) and message and message[0] == b"invalidate":
                if message[1] is None:
                    raise PeerLostError("the server forgot everything")
                signals += [signal for key in message[1] if (signal := self._parse(key)) is not None]
            elif isinstance(message, Exception):
                raise PeerLostError(str(message))
            elif isinstance(message, bytes):
                # Signals that came before this answer must be obeyed before it vouches for anything.
                self._tell(signals)
                signals = []
                answered = True
                self._beaten(peer, message)
        self._tell(signals)
        return answered

    def _tell(self, signals: list[tuple[str, bytes]]) -> None:
        subscriber = self._subscriber()
        if signals and subscriber is not None:
            subscriber.signalled(signals)

    def _beaten(self, peer: Peer, message: bytes) -> None:
        reason = peer.state.answered(Answer.parse(message.decode("utf-8", "replace")), self._monotonic())
        if reason is not None:
            raise PeerLostError(reason)
        self._vouch()
        crowd = self._crowd
        if crowd is not None and peer.name in crowd.to_answer:
            crowd.to_answer.discard(peer.name)
            if not crowd.to_answer and not crowd.to_ask:
                self._crowd = None
                self._waiters.release(self._now_state is LinkState.UP, crowd.finishes)

    def _vouch(self) -> None:
        """Say what all masters together vouch for, if they do."""
        names = set(self._names())
        machines = [peer.state for peer in self._peers.values()]
        if not names or names != set(self._peers) or any(one.state is not LinkState.UP for one in machines):
            return  # a change of masters is noticed, and told, when the names are next looked at
        until = min(machine.valid_until for machine in machines)
        if self._confirmed is not None:
            until = min(until, self._confirmed() + self._bound)
        subscriber = self._subscriber()
        if subscriber is None or (self._now_state is not LinkState.UP and self._monotonic() >= until):
            return
        self._valid_until = until
        if self._now_state is LinkState.UP:
            subscriber.link_beat(until)
        else:
            self._now_state = LinkState.UP
            self._beginning_to_listen = False
            subscriber.link_up(until)
            (first, *others) = self._peers.values()
            # Two threads must not use one TLS connection at once, and of several masters any may signal.
            self._sole = None if others or isinstance(first.sock, ssl.SSLSocket) else first

    def _adjust(self, watched: Sockets) -> None:
        before = set(self._peers)
        super()._adjust(watched)
        if self._now_state is LinkState.UP and set(self._peers) != before:
            self._lose("the masters changed", news=True)

    def _failed(self, peer: Peer, reason: str, error: Exception | None) -> float:
        machine: LinkMachine = peer.state
        news = reason != machine.reason
        pause = machine.lost(reason)
        # Also when it has never been up: what keeps it from coming up should not stay a secret.
        self._lose(f"{reason} ({peer.name})" if peer.name else reason, news=news)
        return pause

    def _lose(self, reason: str, *, news: bool) -> None:
        news = news or self._now_state is LinkState.UP
        self._now_state = LinkState.LOST
        self._beginning_to_listen = False
        self._valid_until = 0.0
        self._sole = None
        subscriber = self._subscriber()
        if news and subscriber is not None and not self._stopping.is_set():
            subscriber.link_lost(reason)
        del subscriber
        self._release_all()

    def _ended(self) -> None:
        self._sole = None
        if self._now_state is not LinkState.STOPPED:
            self._now_state = LinkState.LOST
        self._release_all()
