"""An application for the commands of an operator to look into: a module that caches, and the command line."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from servers import IMPATIENT, PATIENT

from novacron_cache import Cache, configure
from novacron_cache.cli import main

NAMESPACE = "operated"
MODULE = """
from pathlib import Path
from novacron_cache import Cache, CacheModel, cached, cached_many

cache = Cache.connect({url!r}, namespace={namespace!r}, disk={disk!r}, redis={patient})
other = Cache()

class Machine(CacheModel, key="machine:<machine_id>", name="Machine-{number}", ttl="1m", tags=["node:<node>"]):
    machine_id: str
    node: str

@cached(Machine, cache=cache)
def machine(machine_id: str) -> Machine:
    if machine_id == "broken":
        raise RuntimeError("it is broken")
    return Machine(machine_id=machine_id, node="n" + machine_id[-1])

@cached(int, key="square:<n>", name="square", cache=cache)
async def square(n: int) -> int:
    return n * n

@cached_many(str, key="name:<number>", each="numbers", name="names", cache=cache)
def names(numbers: list[int]) -> dict[int, str]:
    return {{n: str(n) for n in numbers}}

class Fleet:
    @cached(str, key="fleet:<name>", name="fleet", cache=cache)
    def name(self, name: str) -> str:
        return name

fleet = Fleet()

def machines():
    return [f"m-{{number}}" for number in range(25)]

def pairs():
    return ((n,) for n in range(3))

text = "m-1"
"""
numbers = itertools.count()


class App:
    """A module of an application, and the command line as its operator uses it."""

    def __init__(self, url: str | None, directory: Path, disk: Path | None = None) -> None:
        self.directory = directory
        number = next(numbers)
        self.name = f"operated_{number}"
        self.model = f"Machine-{number}"
        self.url = url
        self.disk = disk
        text = MODULE.format(
            url=url, namespace=NAMESPACE, number=number, disk=None if disk is None else str(disk), patient=PATIENT
        )
        (directory / f"{self.name}.py").write_text(text)

    @property
    def where(self) -> list[str]:
        """The options that name the cache from outside."""
        url = [] if self.url is None else ["--url", self.url]
        disk = [] if self.disk is None else ["--disk", str(self.disk)]
        return [*url, *disk, "--namespace", NAMESPACE]

    def open(self) -> Cache:
        """Return a cache of the application's, as another process of it has."""
        return Cache.connect(self.url, namespace=NAMESPACE, disk=self.disk, redis=PATIENT)

    def run(self, *arguments: str, given: str | bytes | None = None) -> Result:
        """Run a command as a process of its own would: with the module imported anew."""
        sys.modules.pop(self.name, None)
        result = CliRunner().invoke(main, list(arguments), input=given)
        if (module := sys.modules.pop(self.name, None)) is not None:
            module.cache.close()
            module.other.close()
        configure()
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with `--json` and return what it says."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@contextmanager
def imported_from(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let modules be imported from a directory, with nothing said in the environment but that commands be patient."""
    monkeypatch.syspath_prepend(directory)
    for name in list(os.environ):
        if name.startswith("NOVACRON_CACHE_") or name in {"REDIS_MASTER_ADDR", "SENTINEL_ADDRS"}:
            monkeypatch.delenv(name)
    for name, seconds in IMPATIENT.items():  # with more, `doctor` would find something to say about the staleness
        monkeypatch.setenv(f"NOVACRON_CACHE_REDIS__{name.upper()}", str(seconds))
    configure()
    yield
    configure()
