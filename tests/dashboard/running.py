"""What dashboards are tested with: processes under load, a monitor, and a browser that is looked over the shoulder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import PATIENT, required, wait_until

HERE = Path(__file__).parent
_COMMAND = "from novacron_cache.cli import main; main()"
CHROMIUM = Path("/usr/bin/chromium")


def environment(url: str = "", **more: str) -> dict[str, str]:
    """The environment of a process, without whatever this one was told of caches."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NOVACRON_CACHE_")}
    where = {"NOVACRON_CACHE_REDIS__URL": url} if url else {}
    where |= {f"NOVACRON_CACHE_REDIS__{name.upper()}": str(value) for name, value in PATIENT.items()}
    return {**plain, "NOVACRON_CACHE_NAMESPACE": "shop", "NOVACRON_CACHE_MEMORY__MAX_ITEMS": "1500", **where, **more}


@contextmanager
def process(arguments: list[str], env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a Python process that ends with its standard input; yield it and its first line."""
    started = subprocess.Popen(
        [sys.executable, *arguments], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
    finally:
        with contextlib.suppress(OSError, ValueError):
            started.communicate("", timeout=8)
        if started.poll() is None:
            started.kill()
            started.wait()


@contextmanager
def worker(env: dict[str, str], *arguments: str) -> Iterator[str]:
    """Run an application; yield where its dashboard is, or `ready`."""
    with process([str(HERE / "workload.py"), *arguments], env) as (_, line):
        yield line


@contextmanager
def monitor(env: dict[str, str], *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `novacron-cache monitor`; yield the dashboard's address and the process."""
    ports = {"METRICS_PORT": "0", "WEBUI_PORT": "0", "LOG_LEVEL": "error"}
    with process(["-c", _COMMAND, "monitor", *arguments], {**ports, **env}) as (started, _):
        try:
            assert started.stdout is not None
            yield started.stdout.readline().strip().removeprefix("dashboard: "), started
        finally:
            started.terminate()


def memory_of(pid: int) -> float:
    """The resident memory of a process, in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    raise AssertionError("no such figure")


@contextmanager
def browser() -> Iterator[Any]:
    """Run the system's browser, without a window."""
    path = required(CHROMIUM if CHROMIUM.exists() else None, "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def text_of(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def wait_for(page: Any, condition: str, *, deadline: float = 15.0, what: str = "") -> None:
    """Wait until an expression of the browser's language is true."""
    from playwright.sync_api import Error

    def is_true() -> bool:
        try:
            return bool(page.evaluate(condition))
        except Error as error:
            if "context was destroyed" not in str(error):
                raise
            return False  # it is loading anew

    wait_until(is_true, deadline=deadline, what=what or condition)
