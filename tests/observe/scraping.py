"""A real Prometheus for the length of a block, with the rules file in a hurry, and questions to it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from servers import free_port, required, wait_until

RULES = Path(__file__).parents[2] / "compose" / "prometheus" / "alerts.yml"
TOKEN = "a-token-that-is-long-enough"


def faster(rules: str) -> str:
    """The same rules for those who cannot wait: minutes become seconds."""
    rules = re.sub(r"\[300s\]|\[60s\]", "[5s]", rules)
    rules = re.sub(r"for: \d+s", "for: 1s", rules)
    return rules.replace(" > 0.3333", " > 1")


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[int]:
    binary = required(Path(found) if (found := shutil.which("prometheus")) else None, "prometheus (Debian: prometheus)")
    (directory / "alerts.yml").write_text(faster(RULES.read_text()))
    (directory / "prometheus.yml").write_text(
        f"""
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: cache
    authorization: {{ credentials: {TOKEN} }}
    static_configs: [{{ targets: ["{target}"] }}]
"""
    )
    port = free_port()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: ready(port, process, directory), deadline=30, what="prometheus")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def ready(port: int, process: subprocess.Popen[bytes], directory: Path) -> bool:
    if process.poll() is not None:
        pytest.fail((directory / "log").read_text())
    try:
        return get(port, "/-/ready")[0] == 200
    except OSError:
        return False


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def query(port: int, expression: str) -> list[Any]:
    """Return the series of a query; one that Prometheus does not understand fails the test."""
    answer = json.loads(get(port, f"/api/v1/query?query={quote(expression)}")[1])
    if answer["status"] != "success":
        pytest.fail(f"{answer['error']}: {expression}")
    found: list[Any] = answer["data"]["result"]
    return found
