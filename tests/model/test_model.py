"""With all rules the protocol keeps its promises in every reachable state; without any one of them it does not."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields
from typing import TypeAlias

import pytest
from model.explore import Report, explore
from model.protocol import Coherence
from model.rules import Variant
from model.variants import BESIDE, SHARED, TOLD, VARIANTS
from model.variants_masters import MASTERS
from model.variants_writers import WRITERS
from model.world import Run, World

TABLE = [*VARIANTS, *MASTERS, *WRITERS]

SCENARIO = {
    "name", "expect", "clients", "deps", "bound", "disk", "warm", "linked", "goal_is_database", "budget", "faults",
    "victim", "shards", "knows", "rolls", "promotes", "astray", "strangers", "max_rules",
}  # fmt: skip
"""What a variant says about what happens; the rest are the rules."""


Reports: TypeAlias = dict[str, "Future[Report[World]]"]


def explored(variant: Variant) -> Report[World]:
    return explore(Coherence(variant), budget=variant.budget)


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[Reports]:
    """Explore the variants that this run has asked for on every core at once; each is a search of its own."""
    asked = [item.callspec.params.get("variant") for item in request.session.items if hasattr(item, "callspec")]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield {one.name: pool.submit(explored, one) for one in asked if isinstance(one, Variant)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("variant", TABLE, ids=lambda variant: variant.name)
def test_promises_are_kept_exactly_where_no_rule_is_left_out(variant: Variant, reports: Reports) -> None:
    report = reports[variant.name].result()
    found = "BUG" if report.violation else "ok"
    assert found == variant.expect, f"{variant.name}\n{report}"
    assert report.violation or report.complete, f"{variant.name}: {report}"


def test_every_line_of_the_table_has_its_own_name() -> None:
    assert len({variant.name for variant in TABLE}) == len(TABLE)


def _left_out(variant: Variant) -> set[str]:
    """Return the rules that a variant leaves out."""
    rules = [one for one in fields(Variant) if one.name not in SCENARIO]
    return {one.name for one in rules if getattr(variant, one.name) != one.default}


@pytest.mark.parametrize("rule", sorted(one.name for one in fields(Variant) if one.name not in SCENARIO))
def test_each_rule_is_left_out_somewhere_and_missed(rule: str) -> None:
    assert any(rule in _left_out(variant) and variant.expect == "BUG" for variant in TABLE)


def test_lines_that_show_a_limit_leave_out_no_rule() -> None:
    limits = [variant for variant in TABLE if variant.name.startswith("limit: ")]
    assert limits
    assert not any(_left_out(variant) for variant in limits)


class Watched(Coherence):
    """Notes where reads found their values."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.places: set[str] = set()

    def check(self, w: World, run: Run, version: int, where: str) -> None:
        self.places.add(where)
        super().check(w, run, version, where)


def test_reads_find_values_in_every_place_that_may_have_them() -> None:
    # A model in which nothing is ever served would keep every promise.
    places: set[str] = set()
    for variant in (
        Variant("disk", "ok", TOLD, warm=True, disk=0, faults={"empty": 1, "restart": 1}),
        Variant("flight", "ok", SHARED),
        Variant("link", "ok", BESIDE, linked=True),
        Variant("known", "ok", TOLD, linked=True, knows=True, warm=True, faults={"crowd": 1}),
    ):
        model = Watched(variant)
        assert explore(model, budget=variant.budget).complete
        places |= model.places
    assert places == {
        "from memory", "memory, asked again", "from the authority", "from the disk", "from a flight", "loaded",
        "from the authority, unasked",
    }  # fmt: skip


def test_a_variant_that_invalidates_what_the_value_does_not_depend_on_is_refused() -> None:
    with pytest.raises(ValueError, match="late tag"):
        Coherence(Variant("wrong", "ok", ((0, ("late",)),)))


class Counter:
    """Counts up in steps of one or two."""

    def __init__(self, forbidden: int, last: int = 10) -> None:
        self.forbidden = forbidden
        self.last = last

    def initial(self) -> int:
        return 0

    def successors(self, state: int) -> Iterator[tuple[str, int]]:
        for step in (1, 2):
            if state + step <= self.last:
                yield f"add {step}", state + step

    def violation(self, state: int) -> str | None:
        return "forbidden" if state == self.forbidden else None


def test_the_explorer_returns_a_shortest_trace() -> None:
    report = explore(Counter(forbidden=5), budget=100)
    assert report.violation == "forbidden"
    assert report.final == 5
    assert len(report.trace) == 3
    assert "3. add" in str(report)


def test_the_explorer_sees_every_state_once() -> None:
    report = explore(Counter(forbidden=-1), budget=100)
    assert (report.complete, report.states, report.violation) == (True, 11, None)


def test_the_explorer_says_when_its_budget_cut_the_search() -> None:
    report = explore(Counter(forbidden=-1, last=1000), budget=100)
    assert not report.complete
    assert report.violation is None
    assert "budget" in str(report)
