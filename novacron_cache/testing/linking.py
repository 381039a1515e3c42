"""What every link must do, as tests that a link's own tests inherit.

A link may be late and it may be lost, but it must not lie: what it vouches for has been obeyed, and when it cannot say
so it says that. The suite plays the process that listens and has the subclass play the one that invalidates.
"""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names say what they say

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ..link import Link, LinkState
from ..markers import NAMESPACE, key_dep, new_id, tag_dep
from .driving import eventually

__all__ = ["LinkSuite", "Listener"]

PATIENCE = 10.0
"""Seconds for which the suite waits for what has to happen; a busy machine may need some."""

Signals = Sequence[tuple[str, bytes]]


class Listener:
    """Notes what a link says.

    Attributes:
        heard: the signals, in their order.
        ups: until when the link vouched, each time it came up.
        until: until when it vouches now.
        lost: the reasons for which it was lost.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.ups: list[float] = []
        self.until = 0.0
        self.lost: list[str] = []

    def link_up(self, valid_until: float) -> None:
        """Note that the link is up."""
        self.ups.append(valid_until)
        self.until = valid_until

    def link_beat(self, valid_until: float) -> None:
        """Note until when it vouches."""
        self.until = valid_until

    def link_lost(self, reason: str) -> None:
        """Note that it is lost."""
        self.lost.append(reason)

    def signalled(self, signals: Signals) -> None:
        """Note what was signalled."""
        self.heard += signals


class LinkSuite:
    """The behaviour of a link. A subclass overrides `open_link`, `invalidate`, `cut` and `mend`.

    >>> class TestMyLink(LinkSuite):
    ...     @pytest.fixture
    ...     def open_link(self): ...
    ...     @pytest.fixture
    ...     def invalidate(self): ...
    ...     @pytest.fixture
    ...     def cut(self): ...
    ...     @pytest.fixture
    ...     def mend(self): ...
    """

    bound: float = 2.0
    """The staleness bound of the links that `open_link` opens, in seconds."""

    @pytest.fixture
    def open_link(self) -> Any:
        """Return what opens a link for a subscriber, with the suite's `bound`; the suite stops it."""
        raise NotImplementedError("a subclass of LinkSuite overrides the fixture `open_link`")

    @pytest.fixture
    def invalidate(self) -> Any:
        """Return what another process does to give dependencies new ids: it takes (dependency, id) pairs."""
        raise NotImplementedError("a subclass of LinkSuite overrides the fixture `invalidate`")

    @pytest.fixture
    def cut(self) -> Any:
        """Return what makes every link lose what it listens to."""
        raise NotImplementedError("a subclass of LinkSuite overrides the fixture `cut`")

    @pytest.fixture
    def mend(self) -> Any:
        """Return what ends a `cut`."""
        raise NotImplementedError("a subclass of LinkSuite overrides the fixture `mend`")

    @pytest.fixture
    def listener(self) -> Listener:
        """Return the subscriber of `link`."""
        return Listener()

    @pytest.fixture
    def link(self, open_link: Callable[[Any], Link], listener: Listener) -> Iterator[Link]:
        """Yield a link that has not been started."""
        link = open_link(listener)
        yield link
        link.stop()

    @pytest.fixture
    def up(self, link: Link) -> Link:
        """Return the link when it is up."""
        link.ensure()
        assert eventually(lambda: link.state is LinkState.UP, within=PATIENCE), link.state
        return link

    # -- coming up --------------------------------------------------------------------------------------------------

    def test_it_does_nothing_until_it_is_needed(self, link: Link, listener: Listener) -> None:
        assert link.state is LinkState.CONNECTING
        assert listener.ups == []

    def test_it_comes_up_once_and_says_until_when_it_vouches(self, up: Link, listener: Listener) -> None:
        for _ in range(3):
            up.ensure()
        assert up.barrier(PATIENCE)
        assert len(listener.ups) == 1
        assert listener.until <= time.monotonic() + self.bound

    def test_it_vouches_for_longer_as_time_passes(self, up: Link, listener: Listener) -> None:
        first = listener.until
        assert eventually(lambda: listener.until > first, within=PATIENCE)
        assert listener.until <= time.monotonic() + self.bound

    def test_many_who_need_it_at_once_start_it_once(self, link: Link, listener: Listener) -> None:
        before = threading.active_count()
        threads = [threading.Thread(target=link.ensure) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert eventually(lambda: link.state is LinkState.UP, within=PATIENCE)
        assert threading.active_count() <= before + 1
        assert len(listener.ups) == 1

    # -- hearing ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dep", [NAMESPACE, key_dep("vm:1"), tag_dep("größe {é} *%:x"), tag_dep("x" * 200)])
    def test_what_another_process_invalidates_is_heard_once_with_its_id(
        self, up: Link, listener: Listener, invalidate: Callable[[Signals], None], dep: str
    ) -> None:
        marker = new_id()
        invalidate([(dep, marker)])
        assert up.barrier(PATIENCE)
        assert up.barrier(PATIENCE)
        assert listener.heard == [(dep, marker)]

    def test_after_a_barrier_everything_before_it_has_been_heard_in_its_order(
        self, up: Link, listener: Listener, invalidate: Callable[[Signals], None]
    ) -> None:
        signals = [(tag_dep("counted"), new_id()) for _ in range(60)]
        for one in signals:
            invalidate([one])
        assert up.barrier(PATIENCE)
        assert listener.heard == signals

    def test_several_in_one_step_are_all_heard(
        self, up: Link, listener: Listener, invalidate: Callable[[Signals], None]
    ) -> None:
        signals = [(tag_dep(str(number)), new_id()) for number in range(200)]
        invalidate(signals)
        assert up.barrier(PATIENCE)
        assert sorted(listener.heard) == sorted(signals)

    def test_a_barrier_waits_for_a_link_that_is_coming_up(self, link: Link, listener: Listener) -> None:
        link.ensure()
        assert link.barrier(PATIENCE)
        assert link.state is LinkState.UP
        assert len(listener.ups) == 1

    def test_what_was_invalidated_before_it_was_up_is_not_repeated(
        self, link: Link, listener: Listener, invalidate: Callable[[Signals], None]
    ) -> None:
        invalidate([(NAMESPACE, new_id())])
        link.ensure()
        assert eventually(lambda: link.state is LinkState.UP, within=PATIENCE)
        assert link.barrier(PATIENCE)
        assert listener.heard == []

    def test_an_awaited_barrier_is_one_too(
        self, up: Link, listener: Listener, invalidate: Callable[[Signals], None]
    ) -> None:
        marker = new_id()
        invalidate([(NAMESPACE, marker)])

        async def wait() -> list[bool]:
            return list(await asyncio.gather(*(up.abarrier(PATIENCE) for _ in range(5))))

        assert asyncio.run(wait()) == [True] * 5
        assert listener.heard == [(NAMESPACE, marker)]

    def test_two_links_both_hear(
        self, up: Link, listener: Listener, open_link: Callable[[Any], Link], invalidate: Callable[[Signals], None]
    ) -> None:
        other = Listener()
        second = open_link(other)
        try:
            second.ensure()
            assert eventually(lambda: second.state is LinkState.UP, within=PATIENCE)
            marker = new_id()
            invalidate([(NAMESPACE, marker)])
            assert up.barrier(PATIENCE)
            assert second.barrier(PATIENCE)
            assert listener.heard == other.heard == [(NAMESPACE, marker)]
        finally:
            second.stop()

    # -- being lost -------------------------------------------------------------------------------------------------

    def test_a_barrier_says_no_while_there_is_no_link(self, link: Link) -> None:
        assert link.barrier(0.0) is False
        assert asyncio.run(link.abarrier(0.0)) is False

    def test_a_loss_is_noticed_within_the_bound_and_told_with_its_reason(
        self, up: Link, listener: Listener, cut: Callable[[], None], mend: Callable[[], None]
    ) -> None:
        cut()
        try:
            began = time.monotonic()
            assert eventually(lambda: bool(listener.lost) or listener.until < time.monotonic(), within=PATIENCE)
            assert listener.until <= began + self.bound
            assert eventually(lambda: bool(listener.lost), within=PATIENCE)
            assert listener.lost[0]
            assert up.state is not LinkState.UP
            assert up.barrier(0.2) is False
        finally:
            mend()

    def test_it_comes_up_again_by_itself_and_hears_again(
        self,
        up: Link,
        listener: Listener,
        invalidate: Callable[[Signals], None],
        cut: Callable[[], None],
        mend: Callable[[], None],
    ) -> None:
        cut()
        assert eventually(lambda: bool(listener.lost), within=PATIENCE)
        mend()
        assert eventually(lambda: len(listener.ups) == 2, within=PATIENCE)
        marker = new_id()
        invalidate([(NAMESPACE, marker)])
        assert up.barrier(PATIENCE)
        assert (NAMESPACE, marker) in listener.heard

    # -- ending -----------------------------------------------------------------------------------------------------

    def test_stopping_ends_it_for_good_and_is_no_loss(self, up: Link, listener: Listener) -> None:
        up.stop()
        up.stop()
        assert up.state is LinkState.STOPPED
        assert up.barrier(PATIENCE) is False
        up.ensure()
        assert up.state is LinkState.STOPPED
        assert listener.lost == []

    def test_stopping_what_never_started_is_fine(self, link: Link) -> None:
        link.stop()
        link.ensure()
        assert link.state is LinkState.STOPPED

    def test_it_does_not_keep_its_subscriber_alive(self, open_link: Callable[[Any], Link]) -> None:
        listener = Listener()
        gone = weakref.ref(listener)
        link = open_link(listener)
        try:
            link.ensure()
            assert eventually(lambda: link.state is LinkState.UP, within=PATIENCE)
            del listener
            assert eventually(lambda: gc.collect() >= 0 and gone() is None, within=PATIENCE)
        finally:
            link.stop()
