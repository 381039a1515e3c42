"""The rows and files of a disk tier, looked at and changed behind its back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from novacron_cache.effects import Fetch, Item, Store
from novacron_cache.tiers.disk import DiskTier

LARGE = b"large" * 20_000
KEY = "0::a"
"""The key "a" of no namespace, as its row has it."""


def put(tier: DiskTier, key: str, payload: bytes, ttl: float = 60.0) -> None:
    tier.perform(Store([Item(key, payload, ttl)]))


def get(tier: DiskTier, key: str) -> bytes | None:
    found: bytes | None = tier.perform(Fetch([key])).payloads[0]
    return found


def run_sql(path: Path, statement: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
    connection = sqlite3.connect(path / "cache.db", isolation_level=None)
    try:
        return connection.execute(statement, arguments).fetchall()
    finally:
        connection.close()


def plant(path: Path, **columns: Any) -> None:
    """Change the row of KEY to what an intruder would write."""
    names = ", ".join(f"{name} = ?" for name in columns)
    run_sql(path, f"UPDATE Cache SET {names} WHERE key = ?", (*columns.values(), KEY))  # noqa: S608


def value_files(path: Path) -> list[Path]:
    return list(path.glob("*/*/*.val"))


class Trap:
    """Its unpickling would be seen."""

    sprung: ClassVar[list[bool]] = []

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Trap.sprung.append, (True,)
