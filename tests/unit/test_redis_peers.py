"""Connections to several servers in one thread, with sockets of the test's own at the other end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import hiredis
import pytest
from servers import wait_until

from novacron_cache.errors import TierUnavailableError
from novacron_cache.tiers import redis_peers
from novacron_cache.tiers.redis_peers import Peer, PeerLostError, Peers, answers, packed

PATIENCE = 10.0


class Connection:
    """What a dial returns: our end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock

    def disconnect(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Some(Peers):
    """Connects to servers that a test plays, and notes what it is told."""

    title = "peers of a test"

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names: list[str] = [*names]
        self.theirs: dict[str, list[socket.socket]] = {}
        self.heard: list[tuple[str, list[Any]]] = []
        self.opened: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.ended = threading.Event()
        self.on_dial: Callable[[str], None] = lambda name: None
        self.on_heard: Callable[[Peer], None] = lambda peer: None

    def _needed(self) -> bool:
        return bool(self.names)

    def _names(self) -> Collection[str]:
        return list(self.names)

    def _state(self, name: str) -> Any:
        return None

    def _dial(self, name: str) -> tuple[Any, Any]:
        assert self.beginning
        self.on_dial(name)
        ours, theirs = socket.socketpair()
        self.theirs.setdefault(name, []).append(theirs)
        return Connection(ours), hiredis.Reader(notEnoughData=...)

    def _opened(self, peer: Peer) -> None:
        self.opened.append(peer.name)

    def _received(self, peer: Peer, messages: list[Any]) -> bool:
        self.heard.append((peer.name, messages))
        self.on_heard(peer)
        return False

    def _failed(self, peer: Peer, reason: str, error: Exception | None) -> float:
        self.failures.append((peer.name, reason))
        return 0.01

    def _turn(self, now: float) -> float:
        return 1.0

    def _ended(self) -> None:
        self.ended.set()


@pytest.fixture
def play() -> Iterator[Callable[..., Some]]:
    made: list[Some] = []

    def play(*names: str) -> Some:
        made.append(Some(*names))
        return made[-1]

    yield play
    for one in made:
        one.stop()
        for ends in one.theirs.values():
            for end in ends:
                end.close()


Play = Callable[..., Some]


def up(peers: Some, *names: str) -> None:
    peers.ensure()
    wait_until(lambda: sorted(peers.opened) == sorted(names))


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_what_each_server_says_is_heard_under_its_name(play: Play, names: tuple[str, ...]) -> None:
    peers = play(*names)
    up(peers, *names)
    assert not peers.beginning
    for name in names:
        peers.theirs[name][0].sendall(b"$5\r\nfrom " + b"\r\n$1\r\n" + name.encode() + b"\r\n")
    wait_until(lambda: len(peers.heard) == len(names))
    assert sorted(peers.heard) == [(name, [b"from ", name.encode()]) for name in sorted(names)]


def test_a_server_that_closes_its_connection_is_dialled_again_and_the_others_hear_nothing_of_it(play: Play) -> None:
    peers = play("a", "b")
    up(peers, "a", "b")
    peers.theirs["a"][0].sendall(b"+bye\r\n")
    peers.theirs["a"][0].close()
    wait_until(lambda: peers.opened.count("a") == 2)
    assert peers.failures == [("a", "the server closed the connection")]
    assert peers.heard == [("a", [b"bye"])]
    assert peers.opened.count("b") == 1


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_server_that_cannot_be_reached_is_tried_again_and_the_reason_names_no_secret(
    play: Play, names: tuple[str, ...]
) -> None:
    peers = play(*names)
    errors: list[Exception] = [
        ConnectionRefusedError("password=secret"), TierUnavailableError("no answer", tier="redis")
    ]  # fmt: skip

    def refuse(name: str) -> None:
        if name == "a" and errors:
            raise errors.pop(0)

    peers.on_dial = refuse
    up(peers, *names)
    assert peers.failures == [("a", "ConnectionRefusedError"), ("a", "no answer")]


def test_where_no_thread_is_to_be_had_for_a_dial_it_is_tried_again(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, original = play("a", "b"), threading.Thread.start
    left = [2]

    def start(thread: threading.Thread) -> None:
        if thread.name.endswith("dial") and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    up(peers, "a", "b")
    assert {reason for _, reason in peers.failures} == {"RuntimeError"}
    assert len(peers.failures) == 2


@pytest.mark.parametrize("what", ["thread", "socket"])
def test_where_the_thread_itself_cannot_be_had_a_later_call_starts_it(
    play: Play, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    peers = play("a")

    def refuse(*_: Any) -> Any:
        raise RuntimeError("no threads") if what == "thread" else OSError("no sockets")

    with monkeypatch.context() as patch:
        if what == "thread":
            patch.setattr(threading.Thread, "start", refuse)
        else:
            patch.setattr(socket, "socketpair", refuse)
        peers.ensure()
        assert peers._thread is None
        peers.nudge()
    up(peers, "a")


def test_what_a_listener_raises_ends_that_connection_and_no_other(play: Play) -> None:
    peers = play("a", "b")

    def fail(peer: Peer) -> None:
        if peer.name == "a":
            raise ZeroDivisionError

    up(peers, "a", "b")
    peers.on_heard = fail
    for name in "ab":
        peers.theirs[name][0].sendall(b"+hello\r\n")
    wait_until(lambda: peers.opened.count("a") == 2)
    wait_until(lambda: ("b", [b"hello"]) in peers.heard)
    assert peers.failures == [("a", "ZeroDivisionError")]


def test_a_server_that_is_no_longer_wanted_is_left_and_one_that_is_new_is_met(play: Play) -> None:
    peers = play("a", "b")
    up(peers, "a", "b")
    peers.names = ["b", "c"]
    peers.nudge()
    wait_until(lambda: "c" in peers.opened)
    assert peers.theirs["a"][0].recv(1) == b"", "it was hung up"
    assert peers.failures == []


def test_a_dial_that_ends_when_its_server_is_no_longer_wanted_is_hung_up(play: Play) -> None:
    peers, go = play("a", "b"), threading.Event()

    def wait(name: str) -> None:
        if name == "a":
            go.wait(PATIENCE)

    peers.on_dial = wait
    up(peers, "b")
    peers.names = ["b"]
    peers.nudge()
    wait_until(lambda: "a" not in peers._peers)
    go.set()
    wait_until(lambda: "a" in peers.theirs)
    assert peers.theirs["a"][0].recv(1) == b""
    assert peers.opened == ["b"]


def test_a_dial_whose_server_is_dropped_before_it_is_taken_in_is_hung_up(play: Play) -> None:
    peers = play("a")
    ours, theirs = socket.socketpair()
    peers._dialled.append((Peer("a", None), (Connection(ours), None), None))
    peers._dialled.append((Peer("a", None), None, OSError("refused")))
    peers._collect()
    assert theirs.recv(1) == b""
    assert peers.failures == []
    theirs.close()


def test_the_thread_ends_when_nobody_wants_any_server_and_a_later_call_starts_another(play: Play) -> None:
    peers = play("a")
    up(peers, "a")
    peers.names.clear()
    peers.nudge()
    assert peers.ended.wait(PATIENCE)
    assert peers.theirs["a"][0].recv(1) == b""
    wait_until(lambda: peers._thread is None)
    peers.nudge()  # nobody is there to be nudged
    peers.names.append("a")
    peers.opened.clear()
    up(peers, "a")


def test_what_was_dialled_when_the_thread_ends_is_hung_up(play: Play) -> None:
    peers, dialling, go = play("a"), threading.Event(), threading.Event()

    def wait(_: str) -> None:
        dialling.set()
        go.wait(PATIENCE)

    peers.on_dial = wait
    peers.ensure()
    assert dialling.wait(PATIENCE)
    peers._stopping.set()
    go.set()
    assert peers.ended.wait(PATIENCE)
    assert peers.theirs["a"][0].recv(1) == b""
    assert peers.opened == []
    peers.ensure()
    assert peers._thread is None, "it was stopped"


def test_a_peer_takes_little_and_whoever_does_not_take_even_that_is_lost() -> None:
    peer = Peer("a", None)
    with pytest.raises(PeerLostError, match="not connected"):
        peer.send(b"x")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer.sock = ours
    peer.send(b"hello")
    assert theirs.recv(10) == b"hello"

    def fill() -> None:
        while True:
            peer.send(b"x" * 65_536)

    with pytest.raises(PeerLostError, match="does not read"):
        fill()
    with pytest.raises(PeerLostError, match="does not read"):
        peer.send(b"x")
    for end in (ours, theirs):
        end.close()


def test_a_long_message_is_read_to_its_end(play: Play) -> None:
    peers = play("a")
    up(peers, "a")
    text = b"x" * (2 * redis_peers._MOST)
    peers.theirs["a"][0].sendall(b"$%d\r\n%s\r\n" % (len(text), text))
    wait_until(lambda: peers.heard)
    assert peers.heard == [("a", [text])]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_forked_child_closes_its_copies_without_a_word_and_dials_anew(play: Play, stopped: bool) -> None:
    peers = play("a")
    ours, theirs = socket.socketpair()
    peer = peers._peers["a"] = Peer("a", None)
    peer.connection = Connection(ours)
    peers._peers["b"] = Peer("b", None)
    peers._wake = socket.socketpair()
    if stopped:
        peers._stopping.set()
    peers.after_fork()
    assert theirs.recv(1) == b""
    assert peer.connection._sock is None
    assert (peers._peers, peers._wake) == ({}, None)
    peers.ensure()
    assert (peers._thread is None) is stopped
    theirs.close()


def test_answers_are_read_in_order_and_a_server_that_closes_in_between_is_lost() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"+PONG\r\n$2\r\nhi\r\n")
    reader = hiredis.Reader(notEnoughData=...)
    assert answers(ours, reader, [packed("PING"), packed("GET", "ä")]) == [b"PONG", b"hi"]
    assert theirs.recv(100) == b"*1\r\n$4\r\nPING\r\n" + b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n"
    theirs.sendall(b"+PO")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerLostError, match="closed the connection"):
        answers(ours, reader, [packed("PING")])
    for end in (ours, theirs):
        end.close()
