"""A real gunicorn: any worker answers for all of them, however they are forked and end, and none hangs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import PATIENT, ServerProcess, free_port, process_exists, wait_until

pytestmark = pytest.mark.timeout(150)

TESTS = Path(__file__).parents[1]
CALLS = 10
"""How many calls of the cached function a request makes."""
WARM = 5
"""How many the application makes when it is imported."""


class Gunicorn:
    def __init__(self, directory: Path, redis: int, *, workers: int, preload: bool) -> None:
        self.port = free_port()
        self.workers = workers
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "observe.gunicorn_app:application"),
                    *("--bind", f"127.0.0.1:{self.port}", "--workers", str(workers), "--timeout", "20"),
                    *(["--preload"] if preload else []),
                    *("--worker-tmp-dir", str(directory), "--no-control-socket"),
                ],
                stdout=log, stderr=log, cwd=TESTS,
                env={
                    "PATH": os.environ["PATH"], "HOME": str(directory),
                    "NOVACRON_CACHE_NAMESPACE": "shop",
                    "NOVACRON_CACHE_REDIS__URL": f"redis://127.0.0.1:{redis}",
                    **{f"NOVACRON_CACHE_REDIS__{name.upper()}": str(value) for name, value in PATIENT.items()},
                    "NOVACRON_CACHE_MONITOR__DIRECTORY": str(directory / "metrics"),
                    "NOVACRON_CACHE_MONITOR__PUBLISH_INTERVAL": "0.1",
                },
            )  # fmt: skip
        self.pids: set[int] = set()
        self.requests = 0

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (path, answer.status, body)
            return body
        finally:
            connection.close()

    def ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(self.log.read_text())
        try:
            self.get("/cache/health")
        except OSError:
            return False
        return True

    def work(self) -> int:
        pid = int(json.loads(self.get("/"))["pid"])
        self.requests += 1
        self.pids.add(pid)
        return pid

    def work_in_all(self) -> None:
        """Ask until every worker has had something to do."""
        with ThreadPoolExecutor(8) as pool:
            wait_until(
                lambda: [*pool.map(lambda _: self.work(), range(16))] and len(self.pids) >= self.workers,
                deadline=40, what="an answer of every worker",
            )  # fmt: skip

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/cache/api/metrics"))
        return found

    def calls(self) -> int:
        return int(self.figures()["models"]["numbers"]["calls"])

    def agree_on(self, calls: int) -> None:
        """Wait until whoever is asked says this: what the others counted is as old as their last writing."""
        wait_until(lambda: {self.calls() for _ in range(20)} == {calls}, deadline=20, what=f"{calls} calls in all")

    def children(self) -> set[int]:
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in pids}


@contextmanager
def gunicorn(directory: Path, server: ServerProcess, *, workers: int = 2, preload: bool) -> Iterator[Gunicorn]:
    started = Gunicorn(directory, server.port, workers=workers, preload=preload)
    try:
        wait_until(started.ready, deadline=30, what="gunicorn")
        yield started
        children = started.children()
        started.process.terminate()
        assert started.process.wait(25) == 0, started.log.read_text()
        assert not any(process_exists(pid) for pid in children)
        assert "WORKER TIMEOUT" not in started.log.read_text()
    finally:
        if started.process.poll() is None:
            for pid in started.children():
                os.kill(pid, signal.SIGKILL)
            started.process.kill()
            started.process.wait(10)


def expected(server: Gunicorn, *, preload: bool) -> int:
    imports = 1 if preload else len(server.pids)
    return server.requests * CALLS + imports * WARM


@pytest.mark.servers
@pytest.mark.parametrize("preload", [False, True], ids=["each imports", "preload"])
def test_any_worker_answers_for_all_and_none_is_counted_twice(
    tmp_path: Path, valkey_server: ServerProcess, preload: bool
) -> None:
    with gunicorn(tmp_path, valkey_server, preload=preload) as server:
        server.work_in_all()
        server.agree_on(expected(server, preload=preload))
        found = server.figures()
        assert found["processes"] == 2 + preload
        assert found["basic"]["misses"] >= CALLS
        text = server.get("/cache/metrics").decode()
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        hits = sum(one.value for one in samples if one.name == "novacron_cache_hits_total")
        assert hits == found["basic"]["hits"]


@pytest.mark.servers
@pytest.mark.parametrize("preload", [False, True], ids=["each imports", "preload"])
def test_what_workers_counted_stays_when_they_are_killed_or_replaced(
    tmp_path: Path, valkey_server: ServerProcess, preload: bool
) -> None:
    with gunicorn(tmp_path, valkey_server, preload=preload) as server:
        server.work_in_all()
        counted = expected(server, preload=preload)
        server.agree_on(counted)
        first = server.children()

        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(server.children() - first) == 1, deadline=20, what="another worker")
        wait_until(server.ready)
        assert counted <= server.calls() <= counted + WARM

        server.process.send_signal(signal.SIGHUP)  # a graceful reload: every worker is replaced
        wait_until(lambda: not server.children() & first and len(server.children()) == 2, deadline=20, what="a reload")
        wait_until(server.ready)
        wait_until(lambda: server.figures()["processes"] == 2 + preload, what="the figures of the new workers alone")
        assert counted <= server.calls() <= counted + 3 * WARM
        assert server.work() in server.children()


@pytest.mark.servers
def test_sixteen_workers_forked_from_one_that_used_its_cache_all_work(
    tmp_path: Path, valkey_server: ServerProcess
) -> None:
    with gunicorn(tmp_path, valkey_server, workers=16, preload=True) as server:
        server.work_in_all()
        server.agree_on(expected(server, preload=True))
        found = server.figures()
        assert found["processes"] == 17
        assert found["basic"]["load_errors"] == 0
        wait_until(lambda: server.figures()["coherence"]["link_up"] == 16 + 1, what="a link in each process")
        assert json.loads(server.get("/cache/health"))["status"] == "healthy"
