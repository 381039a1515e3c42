"""What every tier must do while a writer holds what it is about to change, as tests that `TierSuite` inherits.

Held means: no id, whoever asks and whoever would give it one, until everyone who holds has released, or has died and
let its time run out.
"""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names say what they say

from __future__ import annotations

import pytest

from ..effects import Capture, Fetch, Hold, Item, Purge, Release, Renew, Store
from ..markers import NAMESPACE, key_dep, new_id, tag_dep
from .driving import LIFE, Drive, eventually

__all__ = ["HoldSuite"]


class HoldSuite:
    """How a tier holds and releases; a part of `TierSuite`, which brings the fixture `drive`."""

    short: float = 0.05
    """Seconds after which something is meant to expire; longer where a tier's resolution is coarse."""

    def test_what_is_held_has_no_id_and_gets_none(self, drive: Drive) -> None:
        held, free, never = tag_dep("held"), tag_dep("free"), tag_dep("never captured")
        (_, kept) = drive(Capture([held, free], LIFE))
        assert drive(Hold([held, never], new_id(), LIFE)) == [False, False]
        assert drive(Fetch([], [held, free, never])).ids == [None, kept, None]
        assert drive(Capture([held, free, never, held], LIFE)) == [None, kept, None, None]
        assert drive(Fetch([], [held, free, never])).ids == [None, kept, None]

    def test_holding_nothing_and_releasing_nothing_is_done(self, drive: Drive) -> None:
        assert drive(Hold([], new_id(), LIFE)) == []
        assert drive(Release([], new_id(), LIFE)) is True

    def test_a_release_gives_the_ids_named(self, drive: Drive) -> None:
        deps, holder, ids = [NAMESPACE, key_dep("a"), tag_dep("b")], new_id(), [new_id() for _ in range(3)]
        drive(Capture(deps[:2], LIFE))
        drive(Hold(deps, holder, LIFE))
        assert drive(Release(list(zip(deps, ids, strict=True)), holder, LIFE)) is True
        assert drive(Fetch([], deps)).ids == ids
        assert drive(Capture(deps, LIFE)) == ids

    def test_a_release_ends_no_hold_but_of_what_it_names(self, drive: Drive) -> None:
        holder, after = new_id(), new_id()
        drive(Hold([tag_dep("a"), tag_dep("b")], holder, LIFE))
        drive(Release([(tag_dep("a"), after)], holder, LIFE))
        assert drive(Capture([tag_dep("a"), tag_dep("b")], LIFE)) == [after, None]

    def test_what_two_hold_is_held_until_both_are_done(self, drive: Drive) -> None:
        dep, first, second = tag_dep("a"), new_id(), new_id()
        assert drive(Hold([dep], first, LIFE)) == [False]
        assert drive(Hold([dep], second, LIFE)) == [False]
        drive(Release([(dep, new_id())], first, LIFE))
        assert drive(Fetch([], [dep])).ids == drive(Capture([dep], LIFE)) == [None]
        last = new_id()
        drive(Release([(dep, last)], second, LIFE))
        assert drive.id(dep) == last

    def test_a_renewal_leaves_what_is_held_without_an_id(self, drive: Drive) -> None:
        dep, holder, last = tag_dep("a"), new_id(), new_id()
        drive(Hold([dep], holder, LIFE))
        assert drive(Renew([(dep, new_id()), (tag_dep("b"), last)], LIFE)) is True
        assert drive(Fetch([], [dep, tag_dep("b")])).ids == [None, last]
        assert drive(Capture([dep], LIFE, renew=[(dep, new_id())])) == [None]
        assert drive.id(dep) is None
        drive(Store([Item("a", b"1", LIFE)], extend=[dep], life=LIFE))
        assert drive.id(dep) is None
        drive(Release([(dep, last)], holder, LIFE))
        assert drive.id(dep) == last

    def test_who_repeats_a_hold_is_told_that_it_had_no_gap(self, drive: Drive) -> None:
        holder = new_id()
        drive(Hold([tag_dep("a"), tag_dep("c")], holder, LIFE))
        drive(Hold([tag_dep("b")], new_id(), LIFE))
        assert drive(Hold([tag_dep("c"), tag_dep("b"), tag_dep("a")], holder, LIFE)) == [True, False, True]
        drive(Release([(tag_dep("a"), new_id())], holder, LIFE))
        assert drive(Hold([tag_dep("a")], holder, LIFE)) == [False]

    def test_a_hold_lasts_as_long_as_it_was_last_asked_to(self, drive: Drive) -> None:
        dep, holder = tag_dep("a"), new_id()
        drive(Hold([dep], holder, 10 * self.short))
        assert drive(Hold([dep], holder, LIFE)) == [True]
        drive.let_pass(12 * self.short)
        assert drive(Capture([dep], LIFE)) == [None]
        assert drive(Hold([dep], holder, LIFE)) == [True]

    def test_a_hold_that_runs_out_leaves_a_marker_that_is_missing(self, drive: Drive) -> None:
        dep, holder = tag_dep("a"), new_id()
        (before,) = drive(Capture([dep], LIFE))
        drive(Hold([dep], holder, 10 * self.short))
        drive(Renew([(dep, new_id())], LIFE))
        drive.let_pass(12 * self.short)
        assert drive.id(dep) is None
        (after,) = drive(Capture([dep], LIFE))
        assert after not in (None, before, holder)
        assert drive.id(dep) == after

    def test_a_hold_that_ran_out_is_taken_again_and_ends_what_came_between(self, drive: Drive) -> None:
        dep, holder, last = tag_dep("a"), new_id(), new_id()
        drive(Hold([dep], holder, self.short))
        drive.let_pass(4 * self.short)
        (between,) = drive(Capture([dep], LIFE))
        assert between is not None
        assert drive(Hold([dep], holder, LIFE)) == [False]
        assert drive.id(dep) is None
        drive(Release([(dep, last)], holder, LIFE))
        assert drive.id(dep) == last

    def test_a_release_is_right_when_the_hold_ran_out_or_never_was(self, drive: Drive) -> None:
        late, never, holder, ids = tag_dep("late"), tag_dep("never"), new_id(), [new_id(), new_id()]
        drive(Hold([late], holder, self.short))
        drive.let_pass(4 * self.short)
        drive(Capture([late, never], LIFE))
        drive(Release([(late, ids[0]), (never, ids[1])], holder, LIFE))
        assert drive(Fetch([], [late, never])).ids == ids

    def test_a_hold_that_ran_out_does_not_keep_others_from_ending_theirs(self, drive: Drive) -> None:
        dep, holder, last = tag_dep("a"), new_id(), new_id()
        drive(Hold([dep], new_id(), self.short))
        drive(Hold([dep], holder, LIFE))
        drive.let_pass(4 * self.short)
        assert drive.id(dep) is None
        drive(Release([(dep, last)], holder, LIFE))
        assert drive.id(dep) == last

    def test_a_released_marker_lives_as_long_as_asked(self, drive: Drive) -> None:
        brief, lasting, holder, last = tag_dep("brief"), tag_dep("lasting"), new_id(), new_id()
        drive(Hold([brief, lasting], holder, LIFE))
        drive(Release([(brief, new_id())], holder, self.short))
        drive(Release([(lasting, last)], holder, LIFE))
        drive.let_pass(4 * self.short)
        assert eventually(lambda: drive(Fetch([], [brief, lasting])).ids == [None, last])

    def test_a_purge_ends_no_hold(self, drive: Drive) -> None:
        drive(Hold([NAMESPACE], new_id(), LIFE))
        drive(Purge())
        assert drive(Capture([NAMESPACE], LIFE)) == [None]

    @pytest.mark.parametrize("name", ["vm:1", "with space", "schlüssel:Ω:🗝", "{a}", "*[?", "x" * 300, ""])
    def test_any_dependency_can_be_held(self, drive: Drive, name: str) -> None:
        holder, last = new_id(), new_id()
        drive(Hold([tag_dep(name)], holder, LIFE))
        assert drive(Capture([tag_dep(name), tag_dep(name + "x")], LIFE))[0] is None
        assert drive.id(tag_dep(name + "x")) is not None
        drive(Release([(tag_dep(name), last)], holder, LIFE))
        assert drive.id(tag_dep(name)) == last

    def test_thousands_are_held_in_one_operation(self, drive: Drive) -> None:
        deps, holder = [tag_dep(str(n)) for n in range(2500)], new_id()
        assert drive(Hold(deps, holder, LIFE)) == [False] * 2500
        assert drive(Hold(deps, holder, LIFE)) == [True] * 2500
        ids = [new_id() for _ in deps]
        drive(Release(list(zip(deps, ids, strict=True)), holder, LIFE))
        assert drive(Fetch([], deps)).ids == ids
