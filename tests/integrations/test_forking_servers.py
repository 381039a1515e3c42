"""Celery's and gunicorn's workers are forked: their caches work, stay coherent, and end with them.

The cache is made before the fork on purpose, which is the harder case: a child inherits its parent's memory, sockets
that it must not use, and locks that threads it has not got may have held.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, free_port, process_exists, wait_until

from novacron_cache import Cache

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

SHOP = '''
"""A shop whose prices stand in a file; it counts how often they are read there."""
import os
from pathlib import Path
from novacron_cache import Cache, cached

here = Path(os.environ["SHOP"])
cache = Cache.connect(
    os.environ["SHOP_URL"], namespace="shop", redis={"connect_timeout": 5, "socket_timeout": 5}
)

@cached(int, key="price:<item>", tags=["prices"], ttl="10m", cache=cache)
def price(item: str) -> int:
    with (here / "loads").open("a") as loads:
        print(os.getpid(), file=loads)
    return int((here / "price").read_text())

price("before the fork")
'''

TASKS = """
import os
from celery import Celery
from celery.signals import worker_process_shutdown
import shop

app = Celery("tasks", broker="filesystem://", backend=f"file://{os.environ['SHOP']}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{os.environ['SHOP']}/queue", "data_folder_out": f"{os.environ['SHOP']}/queue",
    "control_folder": f"{os.environ['SHOP']}/control", "polling_interval": 0.01,
}
app.conf.worker_prefetch_multiplier = 1

@worker_process_shutdown.connect
def close(**_):
    shop.cache.close()
    (shop.here / f"closed-{os.getpid()}").touch()

@app.task
def price(item):
    return [os.getpid(), shop.price(item)]

@app.task
def warm():
    return shop.price.peek("before the fork")

@app.task
def change(amount):
    (shop.here / "price").write_text(str(amount))
    return shop.cache.invalidate_tags("prices").done
"""

SITE = """
import os
import shop

def app(environ, start_response):
    path = environ["PATH_INFO"].strip("/")
    if path == "change":
        (shop.here / "price").write_text(environ["QUERY_STRING"])
        assert shop.cache.invalidate_tags("prices").done
    body = f"{os.getpid()} {shop.price(path or 'apple')}"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [body.encode()]
"""

GUNICORN = """
preload_app = True
workers = 2

def worker_exit(server, worker):
    import shop
    shop.cache.close()
    (shop.here / f"closed-{worker.pid}").touch()
"""


@pytest.fixture
def shop(tmp_path: Path, valkey_server: ServerProcess) -> Path:
    for name, source in {"shop.py": SHOP, "tasks.py": TASKS, "site_.py": SITE, "conf.py": GUNICORN}.items():
        (tmp_path / name).write_text(textwrap.dedent(source))
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "price").write_text("10")
    (tmp_path / "loads").touch()
    return tmp_path


@contextlib.contextmanager
def started(shop: Path, url: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of Python's until the block ends; it is told to end, and has to."""
    environment = {**os.environ, "SHOP": str(shop), "SHOP_URL": url, "PYTHONPATH": str(shop)}
    with (shop / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=shop, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write((shop / "log").read_text(errors="replace")[-4000:])
        raise
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{words[0]} did not end; its log: {(shop / 'log').read_text(errors='replace')[-4000:]}")


def loads(shop: Path) -> int:
    return len((shop / "loads").read_text().split())


class TestCelery:
    def test_workers_share_what_they_cache_and_end_with_it(self, shop: Path, valkey_server: ServerProcess) -> None:
        words = ["celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "warning"]
        with started(shop, valkey_server.url, *words) as worker, self.client(shop) as call:
            assert call("tasks.warm") == 10, "what the parent had loaded, its children have"
            assert loads(shop) == 1
            answers = [call("tasks.price", "apple") for _ in range(8)]
            assert {amount for _, amount in answers} == {10}
            assert loads(shop) == 2, "one load, whichever workers asked"

            assert call("tasks.change", 20) is True
            seen: dict[int, int] = {}

            def both_have_seen() -> bool:
                pid, amount = call("tasks.price", "apple")
                seen[pid] = amount
                return set(seen.values()) == {20}

            wait_until(both_have_seen, what="the new price in every worker")

            with Cache.connect(valkey_server.url, namespace="shop", redis=PATIENT) as outside:
                (shop / "price").write_text("30")
                assert outside.invalidate_tags("prices").done
            wait_until(lambda: call("tasks.price", "apple")[1] == 30, what="a price that another process changed")
            workers = set(seen)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        assert not any(map(process_exists, workers))
        assert all((shop / f"closed-{pid}").exists() for pid in workers)

    @contextlib.contextmanager
    def client(self, shop: Path) -> Iterator[Callable[..., Any]]:
        """Yield what calls a task by its name and returns its result."""
        from celery import Celery

        with Celery("client", broker="filesystem://", backend=f"file://{shop}/results", set_as_current=False) as app:
            app.conf.broker_transport_options = {
                "data_folder_in": f"{shop}/queue",
                "data_folder_out": f"{shop}/queue",
                "control_folder": f"{shop}/control",
            }

            def call(name: str, *args: Any) -> Any:
                return app.send_task(name, args).get(timeout=90, interval=0.01)

            yield call


class TestGunicorn:
    def test_workers_of_a_preloaded_application_share_what_they_cache(
        self, shop: Path, valkey_server: ServerProcess
    ) -> None:
        port = free_port()

        def get(path: str) -> tuple[int, int] | None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                    pid, amount = answer.read().decode().split()
            except (urllib.error.URLError, ConnectionError):
                return None
            return int(pid), int(amount)

        words = ["gunicorn", "-c", "conf.py", "-b", f"127.0.0.1:{port}", "site_:app"]
        with started(shop, valkey_server.url, *words) as master:
            wait_until(lambda: get("apple"), deadline=60, what="an answer")
            pids: set[int] = set()

            def both_have_answered() -> bool:
                answer = get("apple")
                assert answer is not None
                assert answer[1] == 10
                pids.add(answer[0])
                return len(pids) == 2

            wait_until(both_have_answered, deadline=60, what="answers of both workers")
            assert loads(shop) == 2, "before the fork, and one for both workers"

            changed = get("change?20")
            assert changed is not None
            assert changed[1] == 20
            seen: dict[int, int] = {}

            def both_have_seen() -> bool:
                answer = get("apple")
                assert answer is not None
                seen[answer[0]] = answer[1]
                return len(seen) == 2 and set(seen.values()) == {20}

            wait_until(both_have_seen, deadline=60, what="the new price in both workers")
            master.send_signal(signal.SIGTERM)
            assert master.wait(60) == 0
        assert not any(map(process_exists, pids))
        assert all((shop / f"closed-{pid}").exists() for pid in pids)
