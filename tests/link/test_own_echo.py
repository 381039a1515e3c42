"""What a process signals itself does not wake its link, and keeps nothing else from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from link.recorder import Recorder
from servers import FaultProxy, Options, ServerProcess, wait_until

from novacron_cache.effects import Fetch, Renew
from novacron_cache.link import LinkState, TrackingLink
from novacron_cache.markers import new_id, tag_dep
from novacron_cache.tiers import redis_peers
from novacron_cache.tiers.redis import RedisConnections, RedisTier
from novacron_cache.tiers.redis_sockets import Sockets, sockets

pytestmark = pytest.mark.servers

BOUND = 60.0


class Process:
    """A tier whose link is kept from the echo of what it sends itself, and what that link says."""

    def __init__(self, url: str, link_url: str = "", *, bound: float = BOUND) -> None:
        self.tier = RedisTier(RedisConnections(Options(url=url)), "echo")
        self.heard_by = RedisTier(RedisConnections(Options(url=link_url or url)), "echo")
        self.recorder = Recorder()
        self.link = TrackingLink(
            self.heard_by.connect,
            prefix=self.tier.commands.signals,
            parse=self.tier.commands.parse_signal,
            subscriber=self.recorder,
            bound=bound,
        )
        self.tier.listener = self.link
        self.link.ensure()
        self.until_up()

    def until_up(self) -> None:
        wait_until(lambda: self.link.state is LinkState.UP)

    def invalidate(self, dep: str = "t:ours", *, obeyed: bool = True) -> tuple[str, bytes]:
        marker = (dep, new_id())
        self.tier.perform(Renew([marker], 60.0, obeyed=obeyed))
        return marker

    def echo(self, marker: tuple[str, bytes]) -> bytes:
        return self.tier.commands.plan(Renew([marker], 60.0, obeyed=True))[0].echo

    def close(self) -> None:
        self.link.stop()
        self.tier.close()
        self.heard_by.close()


@pytest.fixture
def ours(valkey_server: ServerProcess) -> Iterator[Process]:
    made = Process(valkey_server.url)
    yield made
    made.close()


@pytest.fixture
def theirs(valkey_server: ServerProcess) -> Iterator[RedisTier]:
    tier = RedisTier(RedisConnections(Options(url=valkey_server.url)), "echo")
    yield tier
    tier.close()


def renewed(tier: RedisTier, dep: str = "t:theirs") -> tuple[str, bytes]:
    marker = (dep, new_id())
    tier.perform(Renew([marker], 60.0))
    return marker


@pytest.mark.parametrize("tag", ["fleet", "größe {1} *", "🦆", "x" * 2000], ids=["plain", "escaped", "wide", "long"])
def test_what_a_process_has_obeyed_already_its_link_does_not_hear(ours: Process, tag: str) -> None:
    for _ in range(5):
        ours.invalidate(tag_dep(tag))
    assert ours.link.barrier(5.0)
    assert ours.recorder.signals == []


def test_redis_7_says_it_in_the_same_words(redis7_server: ServerProcess) -> None:
    process = Process(redis7_server.url)
    try:
        process.invalidate()
        assert process.link.barrier(5.0)
        assert process.recorder.signals == []
    finally:
        process.close()


def test_a_server_that_has_forgotten_its_scripts_is_sent_them_again(
    valkey_server: ServerProcess, ours: Process, theirs: RedisTier
) -> None:
    for _ in range(3):
        with redis.Redis.from_url(valkey_server.url) as client:
            client.script_flush()
        dep, marker_id = ours.invalidate()
        assert theirs.perform(Fetch([], [dep])).ids == [marker_id]
    assert ours.link.barrier(5.0)
    assert ours.recorder.signals == []


def test_what_it_has_not_obeyed_its_link_hears(ours: Process) -> None:
    marker = ours.invalidate(obeyed=False)
    assert ours.link.barrier(5.0)
    assert ours.recorder.signals == [marker]


def test_another_processs_signal_that_comes_before_the_echo_is_heard(ours: Process, theirs: RedisTier) -> None:
    expected, own = ours.link.expect(), ("t:ours", new_id())
    assert expected is not None
    foreign = renewed(theirs)
    theirs.perform(Renew([own], 60.0))
    ours.link.take(expected, ours.echo(own))
    assert ours.link.barrier(5.0)
    # What does not come first is left to the thread, which is then told what it knows.
    assert ours.recorder.signals == [foreign, own]


def test_another_processs_signal_that_comes_after_the_echo_is_heard(ours: Process, theirs: RedisTier) -> None:
    expected, own = ours.link.expect(), ("t:ours", new_id())
    assert expected is not None
    theirs.perform(Renew([own], 60.0))
    foreign = renewed(theirs)
    ours.link.take(expected, ours.echo(own))
    wait_until(lambda: ours.recorder.signals == [foreign])


def test_whoever_waits_for_a_barrier_is_not_kept_waiting_by_one_that_sends(ours: Process, theirs: RedisTier) -> None:
    expected = ours.link.expect()
    assert expected is not None
    marker = renewed(theirs)
    assert ours.link.barrier(5.0)
    assert ours.recorder.signals == [marker]
    ours.link.take(expected, b"never sent")
    again = renewed(theirs)
    wait_until(lambda: again in ours.recorder.signals)


def test_one_thread_at_a_time_has_the_link_sleep_and_none_while_it_waits_for_an_answer(ours: Process) -> None:
    expected = ours.link.expect()
    assert expected is not None
    assert ours.link.expect() is None
    ours.link.take(expected, b"never sent")
    expected.state.asked(time.monotonic())
    assert ours.link.expect() is None


def test_a_sender_that_never_comes_back_costs_no_signal(valkey_server: ServerProcess, theirs: RedisTier) -> None:
    process = Process(valkey_server.url, bound=0.6)
    try:
        assert process.link.expect() is not None
        marker = renewed(theirs)
        wait_until(lambda: marker in process.recorder.signals)
        assert process.recorder.lost == []
    finally:
        process.close()


def test_a_link_that_is_lost_while_it_sleeps_says_so_and_comes_back(
    valkey_server: ServerProcess, theirs: RedisTier
) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        process = Process(valkey_server.url, proxy.url)
        try:
            expected = process.link.expect()
            assert expected is not None
            proxy.reset()
            wait_until(lambda: bool(process.recorder.lost))
            process.link.take(expected, b"never sent")
            process.until_up()
            process.link.take(expected, b"of a connection before")
            marker = renewed(theirs)
            wait_until(lambda: process.recorder.signals == [marker])
        finally:
            process.close()


def test_a_link_that_is_stopped_meanwhile_does_not_trouble_who_sends(ours: Process) -> None:
    expected = ours.link.expect()
    assert expected is not None
    ours.link.stop()
    ours.link.take(expected, b"never sent")
    assert ours.link.expect() is None
    ours.invalidate()


def test_what_nobody_waits_for_any_more_can_be_neither_ignored_nor_heeded() -> None:
    here, there = socket.socketpair()
    with here, there:
        watched = sockets()
        watched.watch(here, "owner")
        there.send(b"x")
        assert watched.wait(10.0) == ["owner"]
        watched.close()
        assert not watched.ignore(here)
        watched.heed(here)


def test_where_nobody_can_be_kept_asleep_the_link_hears_what_its_process_sends(
    valkey_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_peers, "sockets", Sockets)
    process = Process(valkey_server.url)
    try:
        marker = process.invalidate()
        wait_until(lambda: process.recorder.signals == [marker])
        assert process.link.expect() is None
    finally:
        process.close()


def test_among_many_of_its_own_no_signal_of_another_process_is_missed(ours: Process, theirs: RedisTier) -> None:
    ending = threading.Event()

    def invalidate() -> None:
        while not ending.is_set():
            ours.invalidate()

    threads = [threading.Thread(target=invalidate) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        markers = [renewed(theirs) for _ in range(300)]
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert ours.link.barrier(5.0)
    assert [signal for signal in ours.recorder.signals if signal[0] == "t:theirs"] == markers
    assert ours.recorder.lost == []
