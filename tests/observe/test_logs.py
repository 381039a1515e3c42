"""Logging: one tree, levels that mean what is written, and no key that nobody asked for."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from novacron_cache import Cache, SettingsError
from novacron_cache.observe import configure_logging, log_events
from novacron_cache.observe.logs import Redactor

ROOT = logging.getLogger("novacron_cache")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = list(ROOT.handlers), ROOT.level
    # What another test has configured is not what these are about.
    ROOT.handlers.clear()
    yield
    ROOT.handlers[:] = handlers
    ROOT.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestConfiguring:
    def test_every_logger_of_the_package_is_below_one(self, stream: io.StringIO) -> None:
        configure_logging("info", stream=stream)
        logging.getLogger("novacron_cache.alerts").info("heard")
        logging.getLogger("another").warning("not ours")
        assert "INFO novacron_cache.alerts: heard" in stream.getvalue()
        assert "not ours" not in stream.getvalue()

    def test_json_is_one_object_a_line(self, stream: io.StringIO) -> None:
        configure_logging("debug", as_json=True, stream=stream)
        try:
            raise ValueError("of two\nlines")
        except ValueError:
            ROOT.exception("it failed: %d", 7, extra={"tier": "redis"})
        (found,) = lines(stream)
        assert (found["level"], found["logger"], found["message"]) == ("error", "novacron_cache", "it failed: 7")
        assert found["tier"] == "redis"
        assert "ValueError: of two" in str(found["exception"])
        assert str(found["time"]).endswith("Z")

    def test_a_second_call_replaces_the_first(self, stream: io.StringIO) -> None:
        before = len(ROOT.handlers)
        configure_logging("info", stream=io.StringIO())
        configure_logging("WARN", stream=stream)
        assert len(ROOT.handlers) == before + 1
        ROOT.info("unheard")
        ROOT.warning("yes")
        assert "yes" in stream.getvalue()
        assert "unheard" not in stream.getvalue()

    def test_an_unknown_level_names_the_nearest(self) -> None:
        with pytest.raises(SettingsError, match="did you mean 'warning'"):
            configure_logging("warnig")


class TestEvents:
    def test_a_load_is_debug_an_invalidation_info_a_failing_loader_a_warning(self, stream: io.StringIO) -> None:
        configure_logging("debug", as_json=True, stream=stream)
        with Cache() as cache:
            log_events(cache)
            cache.get_or_load("vm:alice", lambda: 1)
            cache.invalidate("vm:alice")
            with pytest.raises(LookupError):
                cache.get_or_load("vm:alice", lambda: {}["alice"])
        levels = {str(line["event"]): line["level"] for line in lines(stream) if "event" in line}
        assert levels == {
            "miss": "debug", "loaded": "debug", "stored": "debug", "invalidated": "info", "load_failed": "warning",
        }  # fmt: skip

    def test_keys_tags_and_loader_errors_are_not_shown(self, stream: io.StringIO) -> None:
        configure_logging("debug", as_json=True, stream=stream)
        with Cache() as cache:
            log_events(cache)
            cache.cached(int, key="vm:<name>")(lambda name: 1)
            cache.get_or_load("vm:alice", lambda: 1, tags=["owner:alice"])
            cache.get_or_load("vm:alice", lambda: 1)
            cache.invalidate("vm:alice")
            cache.invalidate_tags("owner:alice")
            with pytest.raises(LookupError):
                cache.get_or_load("vm:alice", lambda: {}["alice"])
        assert "alice" not in stream.getvalue()
        keys = {line["key"] for line in lines(stream) if "key" in line}
        assert len(keys) == 1
        assert str(keys.pop()).startswith("vm:~")

    def test_they_are_shown_to_who_asks(self, stream: io.StringIO) -> None:
        configure_logging("debug", as_json=True, stream=stream)
        with Cache() as cache:
            log_events(cache, show_keys=True)
            cache.get_or_load("vm:alice", lambda: 1)
        assert {line["key"] for line in lines(stream)} == {"vm:alice"}

    def test_it_ends_when_it_is_told_to(self, stream: io.StringIO) -> None:
        configure_logging("debug", stream=stream)
        with Cache() as cache:
            log_events(cache)()
            cache.get_or_load("a", lambda: 1)
        assert "loaded" not in stream.getvalue()


def test_marks_tell_keys_apart_and_differ_between_runs() -> None:
    one, two = Redactor(), Redactor()
    assert one.shown("vm:1") == one.shown("vm:1") != one.shown("vm:2")
    assert one.shown("vm:1") != two.shown("vm:1")
    assert "secret" not in one.shown("secret")
