"""`novacron-cache audit`: it compares what a server keeps with what the functions of a module say."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from servers import PATIENT, ServerProcess, free_port

from novacron_cache import Cache, CacheModel, configure
from novacron_cache.auditing import AuditReport, StoredSampler
from novacron_cache.auditing.audit import Audit
from novacron_cache.cli import main

NAMESPACE = "audited"
MODULE = """
import asyncio
from pathlib import Path
from typing import Any

from novacron_cache import Cache, CacheModel, cached, cached_many

cache = Cache.connect({url!r}, namespace={namespace!r}, redis={patient}, staleness_bound=0.1)
truth = Path({truth!r})

class Machine(CacheModel, key="machine:<machine_id>", name="Machine-{number}"):
    machine_id: int
    status: str

@Machine.entries.using(cache).loader
def machine(machine_id: int) -> Machine:
    return Machine(machine_id=machine_id, status=truth.read_text())

@cached(str, key="status:<name>", name="status", cache=cache)
def status(name: str) -> str:
    return truth.read_text()

@cached(str, key="later:<n>", name="later", cache=cache)
async def later(n: int) -> str:
    return truth.read_text()

@cached_many(str, key="each:<name>", each="names", name="each", cache=cache)
def each(names: list[str]) -> dict[str, str]:
    return {{name: truth.read_text() for name in names}}

class Fleet:
    @cached(str, key="fleet:<name>", name="fleet", cache=cache)
    def name(self, name: str) -> str:
        return name

number = 7

def fill() -> None:
    status("a"), status("b:c")
    each(["x", "y"])
    Machine.entries.using(cache).load(3)
    Fleet().name("f")

    async def call() -> None:
        await later(1)
        await cache.aclose()

    asyncio.run(call())
"""
numbers = itertools.count()


class App:
    """A module that caches, and the process of an application that has filled the server."""

    def __init__(self, url: str, directory: Path) -> None:
        self.truth = directory / "truth"
        self.truth.write_text("up")
        number = next(numbers)
        self.name = f"audited_{number}"
        text = MODULE.format(url=url, namespace=NAMESPACE, truth=str(self.truth), number=number, patient=PATIENT)
        (directory / f"{self.name}.py").write_text(text)

    def fill(self) -> None:
        code = f"import {self.name}; {self.name}.fill()"
        subprocess.run([sys.executable, "-c", code], cwd=self.truth.parent, check=True, timeout=30)

    def audit(self, *options: str, target: str = "", seconds: str = "1") -> Result:
        arguments = [f"{self.name}{target}", "--seconds", seconds, "--sample", "1", "--max-per-second", "500", *options]
        return CliRunner().invoke(main, ["audit", *arguments])


@pytest.fixture
def app(valkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.syspath_prepend(tmp_path)
    app = App(valkey_server.url, tmp_path)
    yield app
    module = sys.modules.pop(app.name, None)
    if module is not None:
        module.cache.close()


@pytest.mark.servers
@pytest.mark.parametrize("target", ["", ":cache"])
def test_what_the_server_keeps_is_compared(app: App, target: str) -> None:
    app.fill()
    result = app.audit("--json", target=target)
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert outcome["passed"] is True
    assert outcome["rate"] == 0.0
    matched = {name.partition("-")[0]: part["matched"] for name, part in outcome["by_name"].items() if part["matched"]}
    assert matched.keys() == {"status", "each", "later", "Machine"}
    assert matched["status"] >= 2
    assert outcome["skipped"].keys() == {"needs an instance"}


@pytest.mark.servers
@pytest.mark.parametrize(("rate", "code"), [("0", 1), ("0.99", 1), ("1", 0)])
def test_stale_values_fail_the_command_above_the_rate(app: App, rate: str, code: int) -> None:
    app.fill()
    app.truth.write_text("down")
    result = app.audit("--fail-over", rate)
    assert result.exit_code == code, result.output
    assert "6 checked: 0 matched, 0 changing, 6 stale (100.00%)" in result.output
    assert "stale in redis: status:<name> #" in result.output
    assert "b:c" not in result.output


@pytest.mark.servers
def test_keys_are_shown_on_request(app: App) -> None:
    app.fill()
    app.truth.write_text("down")
    assert "stale in redis: status:b:c for" in app.audit("--show-keys").output


@pytest.mark.servers
def test_a_cold_server_is_no_failure_but_is_told(app: App) -> None:
    result = app.audit()
    assert result.exit_code == 0
    assert "Nothing was compared" in result.stderr


@pytest.mark.servers
@pytest.mark.parametrize(
    ("target", "message"),
    [(":nothing", "has no attribute 'nothing'"), (":number", "of type int"), (".nothing", "cannot be imported")],
)
def test_a_wrong_target_is_a_usage_error(app: App, target: str, message: str) -> None:
    result = app.audit(target=target)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_a_cache_without_a_server_cannot_be_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    configure()
    (tmp_path / "memory_alone.py").write_text(
        "from novacron_cache import cached\n@cached(int, key='n:<n>')\ndef load(n: int) -> int:\n    return n\n"
    )
    result = CliRunner().invoke(main, ["audit", "memory_alone"])
    assert result.exit_code == 2
    assert "redis url" in result.output
    configure()


def test_a_module_without_functions_cannot_be_audited() -> None:
    result = CliRunner().invoke(main, ["audit", "string"])
    assert result.exit_code == 2
    assert "no cached function" in result.output


def test_a_server_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    App(f"redis://127.0.0.1:{free_port()}", tmp_path)
    name = next(path.stem for path in tmp_path.glob("audited_*.py"))
    result = CliRunner().invoke(main, ["audit", name])
    assert result.exit_code == 2
    assert "cannot be reached" in result.output
    sys.modules.pop(name).cache.close()


# -- what is served from a server ------------------------------------------------------------------------------------


class Machine(CacheModel, key="machine:<machine_id>", name="test_audit.Machine"):
    machine_id: int
    status: str


def audited(cache: Cache, **options: Any) -> AuditReport:
    sampler = StoredSampler(cache.engine, 1.0)
    return Audit(cache, sampler=sampler, max_per_second=1000, **options).run_once()


@pytest.mark.servers
def test_a_value_that_a_server_serves_is_looked_at_where_it_is(valkey_server: ServerProcess) -> None:
    truth = {"status": "up"}

    def load(machine_id: int) -> Machine:
        return Machine(machine_id=machine_id, status=truth["status"])

    with (
        Cache.connect(valkey_server.url, namespace=NAMESPACE, redis=PATIENT, staleness_bound=0.1) as ours,
        Cache.connect(valkey_server.url, namespace=NAMESPACE, redis=PATIENT, staleness_bound=0.1) as theirs,
    ):
        mine = ours.cached(Machine, key="machine:<machine_id>")(load)
        other = theirs.cached(Machine, key="machine:<machine_id>")(load)
        mine(1)
        other.key(1)  # bound, and nothing read
        assert audited(theirs).matched == 1
        truth["status"] = "down"
        (example,) = audited(theirs).examples
        assert (example.tier, example.still) == ("redis", True)
        mine.invalidate(1)
        assert audited(theirs).skipped == {"no longer served": 1}
        assert theirs.engine.memory is not None
        assert len(theirs.engine.memory) == 0
        assert theirs.stats().calls == 0
        assert theirs.stats().loads == 0


@pytest.mark.servers
def test_a_stale_value_that_leaves_process_memory_is_followed_to_the_server(valkey_server: ServerProcess) -> None:
    truth = {"status": "up"}
    reads = 0
    with Cache.connect(valkey_server.url, namespace=NAMESPACE, redis=PATIENT, staleness_bound=0.1) as cache:

        @cache.cached(Machine, key="machine:<machine_id>")
        def machine(machine_id: int) -> Machine:
            nonlocal reads
            reads += 1
            if reads == 3 and cache.engine.memory is not None:
                cache.engine.memory.clear()
            return Machine(machine_id=machine_id, status=truth["status"])

        machine(1)
        machine(1)
        truth["status"] = "down"
        (example,) = cache.audit(sample=1.0, max_per_second=1000).run_once().examples
        assert (example.tier, example.still) == ("redis", True)
