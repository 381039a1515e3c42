"""What a tier that has leases must do, as tests that `TierSuite` inherits.

A lease is somebody's or nobody's, whoever asks; it ends when it is returned, and at the latest when its time is over.
"""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names say what they say

from __future__ import annotations

import pytest

from ..effects import (
    Capture,
    Ending,
    Fetch,
    Item,
    KeepLeases,
    Purge,
    ReturnLease,
    Store,
    TakeLease,
    Together,
)
from ..markers import new_id, tag_dep
from ..tiers import Tier
from .driving import LIFE, Drive, eventually

__all__ = ["LeaseSuite"]


class LeaseSuite:
    """How a tier that has leases gives them: inherited beside `TierSuite`, which brings the fixture `drive`."""

    short: float = 0.05
    """Seconds after which something is meant to expire; longer where a tier's resolution is coarse."""

    @pytest.fixture
    def leases(self, drive: Drive) -> Drive:
        """Return `drive`; the tier has to say that it has leases."""
        assert drive.tier.has_leases
        return drive

    def test_one_of_two_gets_the_lease(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        assert leases(TakeLease("k", one, LIFE)) is None
        taken = leases(TakeLease("k", other, LIFE))
        assert (taken.holder, taken.done) == (one, False)
        assert 0 < taken.left <= LIFE
        assert leases(TakeLease("k2", other, LIFE)) is None

    def test_a_lease_can_be_taken_when_it_was_returned(self, leases: Drive) -> None:
        for ending in (Ending.IN_VAIN, Ending.GIVEN_UP):
            one, other = new_id(), new_id()
            assert leases(TakeLease("k", one, LIFE)) is None
            assert leases(ReturnLease("k", one, ending)) is True
            assert leases(TakeLease("k", other, LIFE)) is None
            leases(ReturnLease("k", other, ending))

    def test_only_its_holder_returns_a_lease(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        leases(TakeLease("k", one, LIFE))
        leases(TakeLease("k", other, LIFE))
        for ending in Ending:
            assert leases(ReturnLease("k", other, ending)) is True
        assert leases(TakeLease("k", other, LIFE)).holder == one
        assert leases(ReturnLease("nobody's", one, Ending.STORED)) is True
        assert leases(TakeLease("nobody's", other, LIFE)) is None

    def test_a_lease_that_nobody_keeps_runs_out(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        leases(TakeLease("k", one, self.short))
        leases.let_pass(4 * self.short)
        assert leases(TakeLease("k", other, LIFE)) is None
        leases(ReturnLease("k", one, Ending.IN_VAIN))
        assert leases(TakeLease("k", one, LIFE)).holder == other

    def test_a_lease_that_is_kept_does_not(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        leases(TakeLease("a", one, 10 * self.short))
        leases(TakeLease("a", other, LIFE))
        leases(TakeLease("b", other, LIFE))
        assert leases(KeepLeases([("a", one), ("b", one), ("c", one)], LIFE)) == [True, False, False]
        leases.let_pass(12 * self.short)
        assert leases(TakeLease("a", other, LIFE)).holder == one
        assert leases(KeepLeases([], LIFE)) == []

    def test_after_a_value_was_stored_who_has_not_looked_since_is_told_so(self, leases: Drive) -> None:
        one, other, third = new_id(), new_id(), new_id()
        leases(TakeLease("k", one, LIFE))
        leases(ReturnLease("k", one, Ending.STORED))
        taken = leases(TakeLease("k", other, LIFE))
        assert (taken.holder, taken.done) == (one, True)
        assert leases(KeepLeases([("k", one)], LIFE)) == [False]
        assert leases(TakeLease("k", other, LIFE, seen=third)).done
        assert leases(TakeLease("k", other, LIFE, seen=one)) is None
        taken = leases(TakeLease("k", third, LIFE, seen=one))
        assert (taken.holder, taken.done) == (other, False)

    def test_who_has_looked_since_may_have_the_lease(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        leases(TakeLease("k", one, LIFE))
        leases(ReturnLease("k", one, Ending.STORED))
        leases.let_pass(0.1)
        assert leases(TakeLease("k", other, LIFE, looked=2.0)).done
        assert leases(TakeLease("k", other, LIFE, looked=0.0)) is None

    def test_that_is_said_for_a_moment_only(self, leases: Drive) -> None:
        one, other = new_id(), new_id()
        leases(TakeLease("k", one, LIFE))
        leases(ReturnLease("k", one, Ending.STORED))
        leases.let_pass(1.0)
        assert eventually(lambda: leases(TakeLease("k", other, LIFE)) is None)

    def test_a_lease_travels_with_what_it_is_for(self, leases: Drive) -> None:
        dep, one, other = tag_dep("t"), new_id(), new_id()
        (ids, taken) = leases(Together(Capture([dep], LIFE), TakeLease("k", one, LIFE)))
        assert (len(ids), taken) == (1, None)
        (again, taken) = leases(Together(Capture([dep], LIFE), TakeLease("k", other, LIFE)))
        assert (again, taken.holder) == (ids, one)
        (fetched, taken) = leases(Together(Fetch(["k"], [dep]), TakeLease("k", other, LIFE)))
        assert (fetched.payloads, fetched.ids, taken.holder) == ([None], ids, one)
        stored = leases(Together(Store([Item("k", b"v", LIFE)]), ReturnLease("k", one, Ending.STORED)))
        assert stored == (True, True)
        assert leases(Fetch(["k"])).payloads == [b"v"]
        assert leases(TakeLease("k", other, LIFE)).done

    def test_storing_nothing_returns_the_lease_all_the_same(self, leases: Drive) -> None:
        one = new_id()
        leases(TakeLease("k", one, LIFE))
        assert leases(Together(Store([]), ReturnLease("k", one, Ending.IN_VAIN))) == (True, True)
        assert leases(TakeLease("k", new_id(), LIFE)) is None

    def test_what_is_new_only_leaves_alone_what_is_there(self, leases: Drive) -> None:
        leases(Store([Item("there", b"old", LIFE)]))
        assert leases(Store([Item("there", b"new", LIFE), Item("not", b"new", LIFE)], new_only=True)) is True
        assert leases(Fetch(["there", "not"])).payloads == [b"old", b"new"]

    def test_a_lease_is_no_payload(self, leases: Drive) -> None:
        one = new_id()
        leases(TakeLease("k", one, LIFE))
        assert leases(Fetch(["k"])).payloads == [None]
        leases(Purge())
        assert leases(TakeLease("k", new_id(), LIFE)).holder == one

    def test_leases_of_another_namespace_are_others(self, leases: Drive, other_namespace: Tier) -> None:
        leases(TakeLease("k", new_id(), LIFE))
        if leases.tier is not other_namespace:
            assert leases.on(other_namespace, TakeLease("k", new_id(), LIFE)) is None
