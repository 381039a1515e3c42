"""The board and what is made of it: rates over time, histograms, models, and text that is safe to show."""

from __future__ import annotations

from typing import Any

import pytest

from novacron_cache import Cache, CacheSettings
from novacron_cache.dashboard import charts, parts, tables
from novacron_cache.dashboard.board import COLUMN, SERIES, Board, Now
from novacron_cache.dashboard.views import CacheView, Look
from novacron_cache.dashboard.words import ago, count, percent, rate, seconds
from novacron_cache.observe.alerting import Alert
from novacron_cache.observe.happening import FACT as HAPPENED
from novacron_cache.observe.histogram import Histogram
from novacron_cache.observe.hottest import FACT as HOTTEST
from novacron_cache.observe.snapshot import Snapshot


class Script:
    """A view that shows one more second of the same load each time it looks."""

    def __init__(self, **health: Any) -> None:
        self.total = Snapshot("", 0.0)
        self.at = 1_000_000.0
        self.health: dict[str, Any] = {"status": "healthy", "problems": [], "tiers": {}, **health}
        self.facts: dict[str, Any] = {}
        self.closed = False
        self.fail = False
        self.processes = 1

    def look(self) -> Look:
        if self.fail:
            raise ValueError("no")
        self.at += 1.0
        self.total.add("hits", 80, "memory", "VMState")
        self.total.add("hits", 10, "redis", "VMState")
        self.total.add("misses", 10, "VMState", "cold")
        self.total.histograms.setdefault("response_seconds", {}).setdefault(("redis",), Histogram()).add(0.0004)
        copied = Snapshot.decode(self.total.encode())
        assert copied is not None
        one = Snapshot("host:1:ab", self.at, dict(copied.values), {}, dict(self.facts))
        return Look(self.at, "shop", copied, [one] * self.processes, self.health, [], fleet=True)

    def close(self) -> None:
        self.closed = True


def seen(script: Script, times: int = 8) -> Now:
    board = Board(script)
    for _ in range(times):
        board.tick()
    return board.now


class TestTheBoard:
    def test_rates_are_of_the_last_seconds_and_not_of_all_time(self) -> None:
        script = Script()
        script.total.add("misses", 1_000_000, "VMState", "cold")  # before anybody looked
        now = seen(script)
        assert now.rates.calls == pytest.approx(100)
        assert now.rates.hit_rate == pytest.approx(0.9)
        assert now.rates.share == pytest.approx({"memory": 0.8, "redis": 0.1})

    def test_models_have_their_hit_rate_and_the_reasons_of_their_misses(self) -> None:
        (model,) = seen(Script()).models
        assert (model.name, model.hit_rate, dict(model.misses)) == ("VMState", pytest.approx(0.9), {"cold": 70})

    def test_times_are_of_the_last_minute(self) -> None:
        now = seen(Script(), 100)
        assert now.times["redis"].count == 61

    def test_the_heatmap_gains_a_column_every_few_seconds(self) -> None:
        now = seen(Script(), 3 * COLUMN + 1)
        assert [sum(counts) for _, counts in now.heat] == [COLUMN] * 3

    def test_what_is_kept_is_bounded(self) -> None:
        board = Board(Script())
        for _ in range(SERIES + 50):
            board.tick()
        assert len(board.now.series) == SERIES
        assert len(board._points) < 100
        assert len(board._models) <= 8

    def test_a_look_that_fails_leaves_what_is_known_and_says_so(self) -> None:
        script = Script()
        board = Board(script)
        board.tick()
        script.fail = True
        board.tick()
        assert board.now.look is not None
        assert board.now.problem == "ValueError: no"
        assert parts.status(board.now) == ("bad", "Cannot look")

    def test_it_looks_until_it_is_closed_and_closes_the_view(self) -> None:
        from servers import wait_until

        script = Script()
        board = Board(script, interval=0.01)
        board.start()
        wait_until(lambda: board.now.beat > 3)
        board.close()
        assert script.closed

    def test_a_cache_is_seen_from_within_its_application(self) -> None:
        with Cache(CacheSettings()) as cache:
            board = Board(CacheView(cache))
            board.tick()
            cache.get_or_load("a", lambda: 1)
            cache.get_or_load("a", lambda: 1)
            cache.invalidate("a")
            board.tick()
            now = board.now
            board.close()
        assert now.rates.hit_rate == pytest.approx(0.5)
        assert [one.names for one in now.happenings] == [("a",)]
        assert now.look is not None
        assert len(now.look.alerts) == 6


EVIL = "<script>alert(1)</script>"


class TestWhatIsShown:
    def test_text_from_elsewhere_is_escaped_wherever_it_stands(self) -> None:
        script = Script(
            problems=[EVIL], topology={"nodes": [{"address": EVIL, "role": "master", "ok": False, "slots": EVIL}]},
            tiers={EVIL: {"ok": False, "breaker": "open", "last_error": EVIL}}, link="lost",
        )  # fmt: skip
        script.total.add("misses", 5, EVIL, EVIL)
        script.total.add("breaker_open", 1, EVIL)
        script.facts = {
            HOTTEST: {"seconds": 1.0, "keys": [[EVIL, EVIL, 5, 0, 0]]},
            HAPPENED: [[1, 5.0, "invalidated", EVIL, [EVIL], 2], [2, 6.0, EVIL, EVIL, [EVIL], 0]],
            "host": EVIL, "pid": EVIL,
        }  # fmt: skip
        now = seen(script)
        alert = Alert(EVIL, "firing", "critical", 1.0, 0.5, EVIL, 0.0, EVIL, EVIL)
        made = [
            parts.states(now), tables.models(now), tables.hottest(now, str), tables.processes(now),
            parts.alerts([alert]), parts.feed(now.happenings, str), parts.legend(now), parts.rates_table(now),
            parts.times_table(now),
        ]  # fmt: skip
        assert all("<script" not in text for text in made)
        assert sum("&lt;script" in text for text in made) >= 6

    def test_keys_are_shown_as_whoever_shows_them_wants(self) -> None:
        script = Script()
        script.facts = {HOTTEST: {"seconds": 1.0, "keys": [["vm:alice", "VMState", 5, 0, 0]]}}
        now = seen(script)
        assert "vm:alice" not in tables.hottest(now, lambda _: "vm:~1f")
        assert "vm:~1f" in tables.hottest(now, lambda _: "vm:~1f")

    def test_a_tier_that_does_not_answer_is_told_with_its_error(self) -> None:
        tiers = {"redis": {"ok": False, "breaker": "open", "latency": None, "last_error": "refused"}}
        said = parts.states(seen(Script(tiers=tiers, status="degraded", problems=["x"])))
        assert "left alone" in said
        assert "refused" in said

    def test_the_roles_of_servers_are_told_by_words(self) -> None:
        nodes = [
            {"address": "b:2", "role": "replica", "ok": True, "master": "a:1"},
            {"address": "a:1", "role": "master", "ok": True},
            {"address": "c:3", "role": "sentinel", "ok": False},
        ]
        said = parts.states(seen(Script(topology={"nodes": nodes, "confirmed": False})))
        assert said.index("a:1") < said.index("b:2") < said.index("c:3")
        assert "sentinel, does not answer" in said
        assert "unconfirmed" in said

    @pytest.mark.parametrize(
        ("health", "expected"),
        [("healthy", ("good", "Healthy")), ("degraded", ("warn", "Degraded")), ("down", ("bad", "Down"))],
    )
    def test_the_status_is_a_colour_and_a_word(self, health: str, expected: tuple[str, str]) -> None:
        assert parts.status(seen(Script(status=health))) == expected

    def test_no_process_is_not_the_same_as_no_calls(self) -> None:
        script = Script()
        script.processes = 0
        assert not parts.reports(seen(script))

    def test_each_chart_has_a_table_of_the_same_figures(self) -> None:
        now = seen(Script(), 20)
        assert "90.0 %" in parts.rates_table(now)
        assert '<th scope="row">≤ 500 µs</th><td>19</td>' in parts.times_table(now)
        assert "<caption" in parts.heat_table(now)


class TestCharts:
    def test_the_area_chart_has_a_point_for_each_second(self) -> None:
        options = charts.hit_rates(seen(Script(), 20).series)
        assert [one["name"] for one in options["series"]] == ["Memory", "Redis"]
        assert len(options["series"][0]["data"]) == 19  # the first look has nothing to compare with

    def test_a_histogram_is_of_shares_that_add_up(self) -> None:
        (only,) = charts.latencies(seen(Script()).times)["series"]
        assert sum(only["data"]) == pytest.approx(1.0)

    def test_with_nothing_to_draw_there_are_still_options(self) -> None:
        assert charts.hit_rates([])["series"]
        assert charts.heatmap([])["series"]
        assert charts.latencies({})["series"] == []
        assert charts.curve(None)["series"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (percent(0.9996), "99.9 %"), (percent(1.0), "100.0 %"), (percent(None), "–"), (percent(0.123, 0), "12 %"),
        (count(982), "982"), (count(4123), "4.1 k"), (count(12_700_000), "12.7 M"), (count(0.4), "0.4"),
        (count(999.9), "1.0 k"), (rate(20), "20/s"), (seconds(0.00025), "250 µs"), (seconds(0.0012), "1.2 ms"),
        (seconds(3.4), "3.4 s"), (seconds(None), "–"), (seconds(float("inf")), "–"), (ago(None), "never"),
        (ago(3), "3 s ago"), (ago(600), "10 min ago"), (ago(7200), "2.0 h ago"),
    ],
)  # fmt: skip
def test_figures_are_short(made: str, expected: str) -> None:
    assert made == expected
