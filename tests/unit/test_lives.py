"""Which markers need not be prolonged again, and how little of that is remembered."""

from __future__ import annotations

from novacron_cache.guards import Lives, lives
from novacron_cache.testing import ManualClock

SPAN = 60.0


def test_what_was_prolonged_is_not_short_until_its_time_is_over() -> None:
    clock = ManualClock()
    known = Lives(clock, SPAN)
    assert known.short(["a", "b", "a"]) == ["a", "b"]
    known.prolonged(["a"])
    assert known.short(["a", "b"]) == ["b"]
    clock.advance(SPAN - 1.0)
    known.prolonged(["b"])
    assert known.short(["a", "b"]) == []
    clock.advance(1.0)
    assert known.short(["a", "b"]) == ["a"]
    known.forget()
    assert known.short(["a", "b"]) == ["a", "b"]


def test_what_is_remembered_is_bounded() -> None:
    known = Lives(ManualClock(), SPAN)
    known.prolonged(f"k:{number}" for number in range(10 * lives._MOST))
    assert known.short(["k:0"]) == []
    for number in range(5 * lives._MOST):
        known.prolonged([f"t:{number}"])
        if not number % 1000:
            assert len(known._until) <= 2 * lives._MOST
    assert known.short([f"t:{number}"]) == []
