"""The package never draws from the generator that `random` shares with the application."""

from __future__ import annotations

import ast
import os
import random
from pathlib import Path

import pytest

from novacron_cache import Cache, CacheSettings
from novacron_cache.chance import chance

SOURCE = Path(__file__).parents[2] / "novacron_cache"
OWN_GENERATORS = {"Random", "SystemRandom"}


def drawn_from_the_shared_one(source: str) -> list[str]:
    """Return the functions of `random` that a module uses."""
    tree = ast.parse(source)
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
    }
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    return sorted(names - OWN_GENERATORS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_draws_from_a_generator_of_its_own(path: Path) -> None:
    assert drawn_from_the_shared_one(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source", ["import random\nrandom.random()", "from random import uniform", "random.Random(1), random.choice"]
)
def test_drawing_from_the_shared_one_is_found(source: str) -> None:
    assert len(drawn_from_the_shared_one(source)) == 1


def test_what_an_application_has_seeded_stays_as_it_was() -> None:
    random.seed(7)
    expected = random.getstate()
    with Cache(CacheSettings()) as cache:
        load = cache.cached(int, key="n:<n>", ttl="1m", jitter=0.5, shadow=0.5)(lambda n: n)
        assert [load(n) for n in range(50)] == list(range(50))
        cache.audit(sample=0.5)
    assert random.getstate() == expected


def test_the_child_of_a_fork_draws_other_numbers() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, chance.randbytes(16))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 16) != chance.randbytes(16)
