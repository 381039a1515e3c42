"""The states of a link: what leads from one to the next."""

from __future__ import annotations

import pytest

from novacron_cache.link import LinkMachine, LinkState
from novacron_cache.link.machine import Answer

MASTER = Answer("master", "history-1")


def up(machine: LinkMachine, at: float = 10.0) -> LinkMachine:
    machine.connected(at)
    machine.asked(at)
    assert machine.answered(MASTER, at + 0.001) is None
    return machine


def test_a_link_is_up_only_after_its_first_answer() -> None:
    machine = LinkMachine(bound=3.0)
    assert machine.state is LinkState.CONNECTING
    machine.connected(10.0)
    assert machine.state is LinkState.ARMING
    assert machine.valid_until == 0.0
    machine.asked(10.0)
    assert machine.answered(MASTER, 10.2) is None
    assert machine.state is LinkState.UP


def test_an_answer_vouches_from_the_time_of_the_question() -> None:
    machine = LinkMachine(bound=3.0)
    machine.connected(10.0)
    machine.asked(10.0)
    machine.answered(MASTER, 11.4)
    assert machine.valid_until == 13.0


@pytest.mark.parametrize(
    ("answer", "why"),
    [(Answer("slave", "history-1"), "slave"), (Answer("", ""), "unknown"), (Answer("master", "history-2"), "history")],
)
def test_an_answer_of_another_master_or_none_loses_the_link(answer: Answer, why: str) -> None:
    machine = up(LinkMachine(bound=3.0))
    machine.asked(10.5)
    reason = machine.answered(answer, 10.6)
    assert reason is not None
    assert why in reason


def test_after_a_loss_another_history_is_accepted() -> None:
    machine = up(LinkMachine(bound=3.0))
    machine.lost("reset")
    machine.connected(20.0)
    machine.asked(20.0)
    assert machine.answered(Answer("master", "history-2"), 20.1) is None


def test_a_lost_link_vouches_for_nothing() -> None:
    machine = up(LinkMachine(bound=3.0))
    machine.lost("reset")
    assert machine.state is LinkState.LOST
    assert machine.valid_until == 0.0


def test_silence_is_noticed_within_half_the_bound() -> None:
    machine = up(LinkMachine(bound=3.0))
    machine.asked(10.5)
    assert not machine.overdue(11.9)
    assert machine.overdue(12.1)
    assert machine.wait(11.0) == pytest.approx(1.0)


def test_one_heartbeat_is_outstanding_at_most() -> None:
    machine = up(LinkMachine(bound=3.0))
    assert not machine.beat_due(10.4)
    assert machine.beat_due(10.5)
    machine.asked(10.5)
    assert not machine.beat_due(20.0)


def test_pauses_are_short_at_first_then_grow_and_are_spread_but_stay_under_a_second() -> None:
    machine = LinkMachine(bound=3.0)
    pauses = [machine.lost("refused") for _ in range(machine.QUICK + 12)]
    assert max(pauses[: machine.QUICK]) <= machine.SHORTEST
    assert max(pauses) <= machine.LONGEST
    assert pauses[-1] >= machine.LONGEST / 2


def test_an_unasked_answer_loses_the_link() -> None:
    machine = up(LinkMachine(bound=3.0))
    assert machine.answered(MASTER, 10.2) is not None


def test_the_report_of_a_server_is_read() -> None:
    text = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:abc\r\nmaster_replid2:000\r\n"
    assert Answer.parse(text) == Answer("master", "abc")
