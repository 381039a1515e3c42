"""What calls wait behind: slots, leases, barriers. Whoever is told too late, or in a loop that is gone, harms none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from abandoned import let_go, waiting_in_a_closed_loop
from flows.harness import until
from servers import wait_until

from novacron_cache.bypassing import Bypass, BypassBlock
from novacron_cache.leases import ENDED, Leases, Waiting, Woken
from novacron_cache.limits import Slots
from novacron_cache.link.waiters import Waiters
from novacron_cache.testing import ManualClock

LONG = 10.0


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# -- slots -------------------------------------------------------------------------------------------------------------


async def test_a_slot_that_has_become_free_before_the_wait_begins_is_taken_without_waiting() -> None:
    slots = Slots(1)
    assert slots.wait(0.0)
    assert slots.taken == 1
    slots.leave()
    await asyncio.wait_for(slots.await_(), LONG)
    assert (slots.taken, slots.waiting) == (1, 0)
    slots.leave()
    assert slots.taken == 0


async def test_a_task_that_is_cancelled_as_it_gets_its_slot_leaves_it_to_the_next() -> None:
    slots = Slots(1)
    assert slots.take()
    first, second = (asyncio.ensure_future(slots.await_()) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    slots.leave()  # given to the first, which has not heard of it yet
    first.cancel()
    await asyncio.wait_for(second, LONG)
    assert first.cancelled()
    assert (slots.taken, slots.waiting) == (1, 0)


def test_a_slot_for_a_task_whose_loop_is_closed_goes_to_the_next() -> None:
    slots = Slots(1)
    assert slots.take()
    waiting = waiting_in_a_closed_loop(slots.await_())
    got: list[bool] = []
    thread = in_a_thread(lambda: got.append(slots.wait(LONG)))
    wait_until(lambda: slots.waiting == 2)
    slots.leave()
    thread.join(LONG)
    assert got == [True]
    assert slots.taken == 1
    let_go(waiting)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_whoever_waits_is_roused_when_signals_may_have_been_missed() -> None:
    leases = Leases(ManualClock().monotonic)
    waiting, woken = leases.expect("a"), []
    thread = in_a_thread(lambda: woken.append(waiting.wait(b"holder", LONG)))
    wait_until(lambda: waiting._wake is not None)
    leases.rouse()
    thread.join(LONG)
    assert woken == [Woken.RAN_OUT]


async def test_an_end_that_was_told_before_the_wait_begins_is_known_and_a_rousing_is_one_for_one_wait() -> None:
    waiting = Waiting("a")
    waiting.tell(b"holder", Woken.ENDED)
    assert await waiting.await_(b"holder", LONG) is Woken.ENDED
    waiting.rouse()
    assert await waiting.await_(b"other", LONG) is Woken.RAN_OUT
    assert await waiting.await_(b"other", 0.0) is Woken.RAN_OUT
    told = asyncio.ensure_future(waiting.await_(b"third", LONG))
    await until(lambda: waiting._wake is not None)
    waiting.tell(b"nobody", Woken.ENDED)
    waiting.tell(b"third", Woken.IN_VAIN)
    waiting.tell(b"third", Woken.IN_VAIN)  # told twice before the loop has turned
    assert await told is Woken.IN_VAIN


def test_of_several_that_wait_for_one_key_each_is_told_until_it_leaves() -> None:
    leases = Leases(ManualClock().monotonic)
    one, other = leases.expect("a"), leases.expect("a")
    leases.forget(one)
    assert leases.signalled(f"{ENDED}a", b"holder")
    assert not leases.signalled("k:a", b"holder"), "that is no signal about leases"
    assert [waiting.wait(b"holder", 0.0) for waiting in (one, other)] == [Woken.RAN_OUT, Woken.ENDED]
    leases.reset()
    leases.forget(other)  # it stayed in the parent of this process
    leases.forget(other)
    assert leases.signalled(f"{ENDED}a", b"another")
    assert other.wait(b"another", 0.0) is Woken.RAN_OUT


# -- barriers ----------------------------------------------------------------------------------------------------------


async def test_a_barrier_that_nobody_answers_is_given_up_and_a_late_answer_harms_nobody() -> None:
    asked: list[bool] = []
    waiters = Waiters(lambda: True, lambda: asked.append(True))
    assert not await waiters.await_(0.01)
    assert not waiters.wait(0.01)
    assert asked == [True, True]
    waiters.release(True)
    await asyncio.sleep(0)  # lets the late answer arrive
    assert waiters.take() == []


def test_an_answer_to_a_task_whose_loop_is_closed_reaches_the_others() -> None:
    waiters = Waiters(lambda: True, lambda: None)
    gone = waiting_in_a_closed_loop(waiters.await_(LONG))
    got: list[bool] = []
    thread = in_a_thread(lambda: got.append(waiters.wait(LONG)))
    wait_until(lambda: len(waiters._waiting) == 2)
    waiters.release(True)
    thread.join(LONG)
    assert got == [True]
    let_go(gone)


async def test_without_a_link_nobody_waits() -> None:
    waiters = Waiters(lambda: False, lambda: pytest.fail("nobody asks"))
    assert not waiters.wait(LONG)
    assert not await waiters.await_(LONG)


# -- going past the cache ----------------------------------------------------------------------------------------------


def test_a_call_goes_past_the_cache_only_inside_a_block_of_its_own_context() -> None:
    changes: list[int] = []
    bypass, other = Bypass(), Bypass()
    bypass.changed = lambda: changes.append(bypass.active)
    assert bypass.way() is None
    outer, inner = BypassBlock(bypass, refresh=False), BypassBlock(bypass, refresh=True)
    with outer:
        assert (bypass.way(), other.way()) == ("bypassed", None)
        with inner, BypassBlock(other, refresh=False):
            assert (bypass.way(), other.way()) == ("refresh", "bypassed")
            elsewhere: list[object] = []
            in_a_thread(lambda: elsewhere.append(bypass.way())).join(LONG)
            assert elsewhere == [None]
        assert bypass.way() == "bypassed"
        with pytest.raises(RuntimeError, match="open already"):
            outer.__enter__()
    assert bypass.way() is None
    assert changes == [1, 0], "told of the first and of the last alone"
