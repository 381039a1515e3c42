"""The thread that follows a directory's log of changes: when it runs, what it says of failures, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from link.recorder import Recorder
from servers import wait_until

from novacron_cache.errors import TierUnavailableError
from novacron_cache.link import DiskLink, LinkState
from novacron_cache.link import shared as shared_module


class Log:
    """A log of changes that a test writes, and may break."""

    def __init__(self) -> None:
        self.changed: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.another = False
        self.polls = 0
        self.slow = threading.Event()
        self.looked = threading.Event()

    def newest_change(self) -> tuple[int, bytes]:
        if self.slow.is_set():
            self.looked.set()
            wait_until(lambda: not self.slow.is_set())
        self._break()
        return len(self.changed), b""

    def changes(self, since: tuple[int, bytes]) -> tuple[tuple[int, bytes], list[tuple[str, bytes]]] | None:
        self.polls += 1
        self._break()
        if self.another:
            self.another = False
            return None
        return (len(self.changed), b""), self.changed[since[0] :]

    def _break(self) -> None:
        if self.error is not None:
            raise self.error


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "SHORTEST", 0.001)
    monkeypatch.setattr(shared_module, "LONGEST", 0.01)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def link(log: Log, clock: Clock, recorder: Recorder) -> Iterator[DiskLink]:
    link = DiskLink(log, subscriber=recorder, bound=3.0, pace=0.001, monotonic=clock)
    yield link
    link.stop()


def up(link: DiskLink) -> None:
    link.ensure()
    wait_until(lambda: link.state is LinkState.UP)


def unavailable() -> TierUnavailableError:
    return TierUnavailableError("the directory is gone", tier="disk")


def test_a_link_that_gets_no_thread_has_one_the_next_time_it_is_wanted(
    link: DiskLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        link.ensure()
        assert link.state is LinkState.CONNECTING
        assert not link.barrier(0.01)
    up(link)


def test_of_several_calls_that_want_a_link_at_once_one_starts_its_thread(
    link: DiskLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        """A lock during whose taking somebody else has started the thread."""

        def __init__(self, lock: Any, begin: Callable[[], None]) -> None:
            self.lock, self.begin = lock, begin

        def __enter__(self) -> None:
            link._lock = self.lock
            self.begin()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    before = threading.active_count()
    link._lock = Late(link._lock, link.ensure)  # type: ignore[assignment]  # it stands in for one
    link.ensure()
    assert threading.active_count() == before + 1
    up(link)


def test_changes_are_passed_on_before_the_beat_that_vouches_for_them(
    link: DiskLink, log: Log, clock: Clock, recorder: Recorder
) -> None:
    up(link)
    log.changed.append(("k:a", b"1"))
    clock.now += 0.5
    assert link.barrier(5.0)
    assert recorder.signals == [("k:a", b"1")]
    assert recorder.valid_until == pytest.approx(clock.now + 3.0)


def test_whoever_comes_first_waits_for_a_link_that_is_coming_up_and_nobody_for_one_that_comes_back(
    link: DiskLink, log: Log
) -> None:
    def begin() -> threading.Thread:
        thread = threading.Thread(target=lambda: said.append(link.barrier(60.0)))
        thread.start()
        return thread

    said: list[bool] = []
    log.slow.set()
    link.ensure()
    assert log.looked.wait(10)
    first = begin()
    wait_until(lambda: bool(link._waiters._waiting))
    log.slow.clear()
    first.join(10)
    assert said == [True]
    log.looked.clear()
    log.slow.set()
    log.another = True
    assert log.looked.wait(10)
    assert link.state is LinkState.CONNECTING
    later = begin()
    later.join(5)
    log.slow.clear()
    later.join(10)
    assert said == [True, False]


def test_a_directory_that_is_busy_for_a_moment_loses_no_link_and_one_that_stays_so_does(
    link: DiskLink, log: Log, clock: Clock, recorder: Recorder
) -> None:
    up(link)
    log.error = unavailable()
    before = log.polls
    wait_until(lambda: log.polls > before + 3)
    assert link.state is LinkState.UP
    assert not link.barrier(5.0), "it cannot say so now"
    assert recorder.lost == []
    clock.now += 2.0  # more than half the bound without a look
    wait_until(lambda: recorder.lost)
    assert recorder.lost == ["the directory is gone"]
    log.error = None
    wait_until(lambda: recorder.ups == 2)


def test_a_log_that_is_another_one_loses_the_link(link: DiskLink, log: Log, recorder: Recorder) -> None:
    up(link)
    log.another = True
    wait_until(lambda: recorder.lost)
    assert "another one" in recorder.lost[0]
    wait_until(lambda: recorder.ups == 2)


def test_what_keeps_it_from_coming_up_is_told_once_and_not_with_every_attempt(
    link: DiskLink, log: Log, recorder: Recorder
) -> None:
    attempts: list[int] = []

    def fail() -> tuple[int, bytes]:
        attempts.append(1)
        raise ZeroDivisionError

    log.newest_change = fail  # type: ignore[method-assign]  # of this test alone
    link.ensure()
    wait_until(lambda: len(attempts) > 3)
    assert recorder.lost == ["ZeroDivisionError"]


def test_a_link_that_is_stopped_lets_nobody_wait_and_starts_no_thread_again(link: DiskLink) -> None:
    up(link)
    link.stop()
    assert link.state is LinkState.STOPPED
    link.ensure()
    link.drop("nothing")
    assert link._thread is None
    assert not link.barrier(5.0)
    link.stop()


def test_a_thread_whose_subscriber_is_gone_ends(log: Log, clock: Clock) -> None:
    recorder = Recorder()
    link = DiskLink(log, subscriber=recorder, bound=3.0, pace=0.001, monotonic=clock)
    up(link)
    thread = link._thread
    assert thread is not None
    del recorder
    thread.join(10)
    assert not thread.is_alive()
    assert link.state is LinkState.LOST


@pytest.mark.parametrize("stopped", [False, True])
def test_a_forked_child_begins_where_its_parent_was(link: DiskLink, stopped: bool) -> None:
    up(link)
    if stopped:
        link.stop()
    else:
        thread = link._thread
        link._stopping.set()  # in a child it would not be there
        assert thread is not None
        thread.join(10)
        link._stopping.clear()
    link.after_fork()
    assert link.state is (LinkState.STOPPED if stopped else LinkState.CONNECTING)
    link.ensure()
    assert (link._thread is None) is stopped
