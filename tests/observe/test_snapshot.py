"""Figures as values: histograms, adding up, subtracting, and the way over the wire."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novacron_cache.observe.histogram import BOUNDS, Histogram
from novacron_cache.observe.snapshot import FAMILIES, Snapshot, merged


def histogram(*seconds: float) -> Histogram:
    found = Histogram()
    for one in seconds:
        found.add(one)
    return found


class TestHistogram:
    def test_a_duration_on_a_bound_belongs_below_it(self) -> None:
        found = histogram(BOUNDS[3])
        assert found.counts[3] == 1
        assert found.count == 1

    def test_what_is_longer_than_the_last_bound_has_a_bucket_too(self) -> None:
        assert histogram(1e6).counts[-1] == 1
        assert histogram(1e6).quantile(0.5) == BOUNDS[-1]

    def test_without_observations_everything_is_zero(self) -> None:
        assert (histogram().mean, histogram().quantile(0.99)) == (0.0, 0.0)

    @given(st.lists(st.floats(0, 9, allow_nan=False), min_size=1, max_size=50), st.floats(0.01, 1))
    @settings(max_examples=50, deadline=None)
    def test_a_quantile_is_within_the_bucket_that_holds_it(self, seconds: list[float], share: float) -> None:
        estimate = histogram(*seconds).quantile(share)
        rank = max(1, -(-share * len(seconds) // 1))
        exact = sorted(seconds)[min(len(seconds), int(rank)) - 1]
        lower = max((bound for bound in (0.0, *BOUNDS) if bound < exact), default=0.0)
        upper = min(bound for bound in BOUNDS if bound >= exact)
        assert lower <= estimate <= upper


def sample(process: str = "a", hits: float = 3) -> Snapshot:
    snapshot = Snapshot(process, 100.0, facts={"namespace": "shop"})
    snapshot.add("hits", hits, "memory", "VMState")
    snapshot.add("items", 7, "memory")
    snapshot.add("server_bytes", 10 * hits, "redis")
    snapshot.histograms["load_seconds"] = {("VMState",): histogram(0.002, 0.02)}
    return snapshot


class TestMerging:
    def test_counters_histograms_and_gauges_of_processes_are_added(self) -> None:
        total = merged([sample("a", 3), sample("b", 4)])
        assert total.total("hits") == 7
        assert total.total("items") == 14
        assert total.histogram("load_seconds").count == 4

    def test_what_all_processes_see_of_one_server_is_not_added(self) -> None:
        assert merged([sample("a", 3), sample("b", 4)]).total("server_bytes") == 40

    def test_what_was_counted_before_is_subtracted_and_gauges_stay(self) -> None:
        rest = sample(hits=10).minus(sample(hits=4))
        assert rest.total("hits") == 6
        assert rest.total("items") == 7
        assert rest.histogram("load_seconds").count == 0

    def test_merging_changes_none_of_its_parts(self) -> None:
        first, second = sample("a"), sample("b")
        merged([first, second])
        assert first.total("hits") == 3
        assert first.histogram("load_seconds").count == 2


class TestWire:
    def test_a_snapshot_comes_back_as_it_was(self) -> None:
        back = Snapshot.decode(sample().encode())
        assert back is not None
        assert (back.process, back.at, back.values, back.facts) == ("a", 100.0, sample().values, {"namespace": "shop"})
        assert back.histograms["load_seconds"]["VMState",].counts == histogram(0.002, 0.02).counts

    @pytest.mark.parametrize(
        "plain",
        [
            {}, [], 7, {"v": 2}, {"v": 1, "bounds": len(BOUNDS)},
            {"v": 1, "bounds": 3, "process": "a", "at": 1, "values": {}, "histograms": {}, "facts": {}},
            {"v": 1, "bounds": len(BOUNDS), "process": "a", "at": 1, "values": {"hits": [["memory"]]},
             "histograms": {}, "facts": {}},
            {"v": 1, "bounds": len(BOUNDS), "process": "a", "at": 1, "values": {},
             "histograms": {"load_seconds": [["x", [1, 2], 0.1]]}, "facts": {}},
        ],
    )  # fmt: skip
    def test_what_is_no_snapshot_is_none(self, plain: Any) -> None:
        assert Snapshot.decode(zlib.compress(json.dumps(plain).encode())) is None

    @given(st.binary(max_size=200))
    @settings(max_examples=50, deadline=None)
    def test_no_bytes_make_it_fail(self, data: bytes) -> None:
        assert Snapshot.decode(data) is None

    def test_a_bomb_is_not_unpacked(self) -> None:
        assert Snapshot.decode(zlib.compress(b" " * (20 * 2**20) + b"{}")) is None

    def test_a_family_of_a_later_version_is_left_out(self) -> None:
        snapshot = sample()
        snapshot.values["from_the_future"] = {("x",): 1.0}
        back = Snapshot.decode(snapshot.encode())
        assert back is not None
        assert "from_the_future" not in back.values


def test_every_family_is_explained_and_named_as_prometheus_wants() -> None:
    for name, family in FAMILIES.items():
        assert family.help.endswith("."), name
        assert not name.endswith("_total"), name
        assert "le" not in family.labels
