"""Serving: what starts, what refuses to, what ends, and what fifty processes cost."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from dashboard.running import environment
from servers import PATIENT, ServerProcess

from novacron_cache import Cache, CacheSettings, SettingsError
from novacron_cache.cli import main
from novacron_cache.dashboard import serving
from novacron_cache.dashboard.board import Board
from novacron_cache.dashboard.views import FleetView
from novacron_cache.observe.fleet import Fleet
from novacron_cache.observe.happening import Happenings, happenings_of
from novacron_cache.observe.histogram import Histogram
from novacron_cache.observe.snapshot import Snapshot
from novacron_cache.observe.taking import AGE


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: NiceGUI stays for as long as one lives."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment(), capture_output=True, text=True, check=False,
        timeout=50,
    )  # fmt: skip


class TestStarting:
    def test_without_nicegui_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nicegui", None)
        monkeypatch.setattr(serving, "_the_pages", None)
        with Cache() as cache, pytest.raises(SettingsError, match=r"pip install 'novacron-cache\[dashboard\]'"):
            cache.serve_dashboard(port=0)

    def test_a_public_address_needs_a_token(self) -> None:
        with Cache() as cache, pytest.raises(SettingsError, match="needs a token"):
            cache.serve_dashboard("0.0.0.0", 0)  # noqa: S104 - refused

    def test_a_short_token_is_refused(self) -> None:
        with Cache() as cache, pytest.raises(SettingsError, match="at least 16"):
            cache.serve_dashboard(port=0, token="short")

    def test_a_port_that_is_taken_is_named_with_the_variable(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(SettingsError, match="is taken; choose another with WEBUI_PORT"):
                serving._bound("127.0.0.1", taken.getsockname()[1])

    def test_an_address_that_is_not_this_machines_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="no address of this machine"):
            serving._bound("192.0.2.1", 0)

    def test_a_closed_cache_serves_nothing(self) -> None:
        ended = run("from novacron_cache import Cache; c = Cache(); c.close(); c.serve_dashboard(port=0)")
        assert "CacheClosedError" in ended.stderr


class TestLiving:
    def test_two_caches_serve_theirs_and_a_port_is_free_again_when_one_is_closed(self) -> None:
        ended = run(
            "import urllib.request as r\n"
            "from novacron_cache import Cache\n"
            "with Cache() as a, Cache() as b:\n"
            "    one, two = a.serve_dashboard(port=0), b.serve_dashboard(port=0)\n"
            "    assert one.port != two.port\n"
            "    assert b'novacron_cache' in r.urlopen(one.url).read()\n"
            "    one.close(); one.close()\n"
            "    again = a.serve_dashboard(port=one.port)\n"
            "    assert r.urlopen(again.url).status == r.urlopen(two.url).status == 200\n"
            "    where = two.url\n"
            "try:\n"
            "    r.urlopen(where, timeout=2)\n"
            "except OSError:\n"
            "    print('closed with the cache')\n"
        )
        assert (ended.stdout.strip(), ended.stderr) == ("closed with the cache", "")

    def test_a_forked_child_gives_the_port_back_and_says_why_it_has_no_dashboard(self) -> None:
        ended = run(
            "import os\n"
            "from novacron_cache import Cache, SettingsError\n"
            "cache = Cache()\n"
            "made = cache.serve_dashboard(port=0)\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    try:\n"
            "        Cache().serve_dashboard(port=0)\n"
            "    except SettingsError as error:\n"
            "        os._exit(7 if 'forked' in str(error) and made._socket.fileno() == -1 else 1)\n"
            "    os._exit(2)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
            "import urllib.request as r\n"
            "assert r.urlopen(made.url).status == 200\n"
            "cache.close()\n"
        )
        assert (ended.stdout.strip(), ended.stderr) == ("7", "")

    def test_it_wakes_nothing_that_an_application_left_lazy(self) -> None:
        ended = run(
            "class Lazy:\n"
            "    __class__ = property(lambda self: 1 / 0)\n"
            "lazy = Lazy()\n"
            "from novacron_cache import Cache\n"
            "with Cache() as cache:\n"
            "    cache.serve_dashboard(port=0)\n"
        )
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_a_process_with_a_nicegui_application_is_told_to_run_the_monitor(self) -> None:
        ended = run(
            "from fastapi import FastAPI\n"
            "from nicegui import ui\n"
            "ui.run_with(FastAPI())\n"
            "from novacron_cache import Cache\n"
            "Cache().serve_dashboard(port=0)\n"
        )
        assert "novacron-cache monitor" in ended.stderr


def one_of_many(number: int, calls: int) -> Snapshot:
    facts = {"namespace": "shop", "pid": number, "host": "host", AGE: 0.0}  # as of one that was started a moment ago
    found = Snapshot(f"host:{number}:aa", time.time(), facts=facts)
    for model in range(100):
        found.add("hits", calls, "memory", f"Model{model}")
        found.add("misses", 1, f"Model{model}", "cold")
        found.histograms.setdefault("load_seconds", {})[f"Model{model}",] = Histogram([calls] * 16, 1.0)
    found.add("link_up", 1)
    found.add("processes", 1)
    return found


@pytest.mark.servers
def test_fifty_processes_are_read_added_up_and_shown_within_the_second_there_is(valkey_server: ServerProcess) -> None:
    with Cache(CacheSettings(namespace="shop", redis={"url": valkey_server.url, **PATIENT})) as cache:
        tier = cache.engine.authority
        fleet = Fleet(cache)
        board = Board(FleetView(fleet, "shop", list))
        took = []
        for look in range(1, 4):
            for number in range(50):
                tier.publish(f"p{number}", one_of_many(number, 10 * look).encode(), 10.0)  # type: ignore[union-attr]  # redis has it
            began = time.process_time()
            fleet.look()
            board.tick()
            took.append(time.process_time() - began)
        now = board.now
        board.close()
    assert now.look is not None
    assert len(now.look.processes) == 50
    assert now.look.total.total("hits") == 50 * 100 * 30
    assert min(took) < 1.0


def test_the_latest_happenings_are_kept_with_a_few_of_their_names() -> None:
    with Cache() as cache:
        happenings = Happenings(cache.engine)
        for number in range(100):
            cache.invalidate(*(f"k:{number}:{part}" for part in range(5)))
        snapshot = Snapshot("one", facts={"happened": happenings.rows()})
        found = happenings_of([snapshot, Snapshot("two", facts={"happened": [[1], "x", None]}), Snapshot("three")])
    assert len(found) == 24
    assert (found[0].names, found[0].more) == (("k:99:0", "k:99:1", "k:99:2"), 2)


def test_the_monitor_names_the_options_of_the_dashboard() -> None:
    from click.testing import CliRunner

    said = CliRunner().invoke(main, ["monitor", "--help"]).output
    for option in ("--webui-port", "--no-dashboard", "--show-keys"):
        assert option in said


def test_without_nicegui_the_monitor_serves_the_rest_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from novacron_cache.cli import monitor

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    unused: Any = None
    assert monitor._dashboard(unused, unused, None, monitor._Page(None, False), unused) is None
    assert "pip install 'novacron-cache[dashboard]'" in capsys.readouterr().err
