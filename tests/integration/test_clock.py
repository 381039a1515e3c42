"""Hosts disagree about the time; expiry is kept in the server's."""

from __future__ import annotations

import time

import pytest
from servers import PATIENT, ServerProcess

from novacron_cache import Cache


class SkewedClock:
    """A wall clock that is wrong by some seconds; like a real one it can also be set while the process runs."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, skew: float) -> None:
        self.skew = skew

    def time(self) -> float:
        return time.time() + self.skew


def cache_with(server: ServerProcess, skew: float) -> Cache:
    from novacron_cache import CacheSettings

    return Cache(CacheSettings.connect(server.url, namespace="clocks", redis=PATIENT), clock=SkewedClock(skew))


@pytest.mark.parametrize(("writer", "reader"), [(3600.0, -3600.0), (-3600.0, 3600.0), (0.0, 3600.0)])
def test_a_value_keeps_its_life_between_hosts_whose_clocks_are_hours_apart(
    valkey_server: ServerProcess, writer: float, reader: float
) -> None:
    with cache_with(valkey_server, writer) as ours, cache_with(valkey_server, reader) as theirs:
        ours.set("key", "value", ttl="1m")
        assert theirs.get("key") == "value"
        left = theirs.ttl("key")
        assert left is not None
        assert 50 < left < 70


def test_setting_the_wall_clock_while_the_process_runs_changes_nothing(valkey_server: ServerProcess) -> None:
    with cache_with(valkey_server, 0.0) as ours, cache_with(valkey_server, 0.0) as theirs:
        ours.set("key", "value", ttl="1m")
        clock = theirs.engine.clock
        assert isinstance(clock, SkewedClock)
        assert theirs.get("missing") is None
        clock.skew = 7200.0
        assert theirs.get("key") == "value"
        assert (theirs.ttl("key") or 0) < 70
