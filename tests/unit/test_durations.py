"""Durations: every form people write, and the ones that are refused."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.durations import seconds
from novacron_cache.errors import DeclarationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (30, 30.0), (0, 0.0), (0.25, 0.25),
        (timedelta(minutes=2, milliseconds=500), 120.5), (timedelta(0), 0.0),
        ("30s", 30.0), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0), ("2w", 1209600.0), ("250ms", 0.25),
        ("1h30m", 5400.0), ("1h30m15s", 5415.0), ("1s500ms", 1.5), ("1.5h", 5400.0), ("0s", 0.0),
        ("45", 45.0), ("0.5", 0.5), ("1e3", 1000.0),
        (" 2M ", 120.0), ("1 h 30 m", 5400.0), ("250MS", 0.25),
    ],
)  # fmt: skip
def test_every_form_of_a_duration_gives_seconds(value: Any, expected: float) -> None:
    result = seconds(value)
    assert result == pytest.approx(expected)
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    ["", " ", "abc", "30x", "s", "m30", "30s!", "1h -30m", "1h,30m", "1..5s", ".5s", "--1", "1h30", "30 s s", "٣٠x"],
)
def test_malformed_text_is_refused_with_the_forms_to_write(value: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        seconds(value)
    message = str(caught.value)
    assert message.startswith(f"ttl={value!r}: malformed duration; expected seconds as a number")
    assert "'1h30m'" in message


@pytest.mark.parametrize("value", [True, False, None, b"30s", [30], 1j, object()], ids=repr)
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(DeclarationError, match="expected seconds as a number, a timedelta, or text"):
        seconds(value)


@pytest.mark.parametrize(
    "value", [-1, -0.001, "-5", timedelta(seconds=-1), math.inf, -math.inf, math.nan, "inf", "nan", "1e999"]
)
def test_negative_and_infinite_durations_are_refused(value: Any) -> None:
    with pytest.raises(DeclarationError, match="a duration must be finite and not negative"):
        seconds(value)


def test_the_message_names_the_option() -> None:
    with pytest.raises(DeclarationError, match=r"^grace='soon': "):
        seconds("soon", what="grace")


@given(st.integers(0, 50), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_parts_add_up(hours: int, minutes: int, secs: int, millis: int) -> None:
    expected = timedelta(hours=hours, minutes=minutes, seconds=secs, milliseconds=millis)
    assert seconds(f"{hours}h{minutes}m{secs}s{millis}ms") == pytest.approx(seconds(expected))
