"""The disk tier trusts no row, no file and no other process, and every failure of it is one kind of error."""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import os
import pickle
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import diskcache
import pytest

from novacron_cache.codecs.envelope import REFUSED
from novacron_cache.effects import Capture, Delete, Fetch, Hold, Item, Purge, ReadRules, Release, Renew, Store
from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.markers import NAMESPACE, new_id, tag_dep
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.disk import TIDY_EVERY, DiskTier
from novacron_cache.tiers.disk_database import RawDisk, confined_path
from novacron_cache.tiers.disk_mark import Mark
from novacron_cache.tiers.gate import Gate

LARGE = b"large" * 20_000
KEY = "0::a"
"""The key "a" of no namespace, as its row has it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tier(path: Path) -> Iterator[DiskTier]:
    tier = DiskTier(path, timeout=1.0)  # a thread that has the lock may have to wait for a core
    yield tier
    tier.close()


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


class TestPlantedRows:
    @pytest.fixture
    def stored(self, tier: DiskTier) -> DiskTier:
        put(tier, "a", b"payload")
        put(tier, "b", LARGE)
        return tier

    @pytest.mark.parametrize("keys", [["a"], ["a", "b", "c"]])
    def test_a_pickled_row_is_never_unpickled(self, stored: DiskTier, path: Path, keys: list[str]) -> None:
        plant(path, mode=4, value=pickle.dumps(Trap()))
        assert stored.perform(Fetch(keys)).payloads[0] == REFUSED
        put(stored, "a", b"again")
        stored.perform(Purge())
        assert Trap.sprung == []

    def test_a_pickled_file_is_never_unpickled(self, stored: DiskTier, path: Path) -> None:
        (file,) = value_files(path)
        file.write_bytes(pickle.dumps(Trap()))
        plant(path, mode=4, value=None, filename=str(file.relative_to(path)))
        assert get(stored, "a") == REFUSED
        assert Trap.sprung == []

    def test_a_pickled_key_is_never_unpickled(self, stored: DiskTier, path: Path) -> None:
        run_sql(path, "UPDATE Cache SET key = ?, raw = 0 WHERE key = ?", (pickle.dumps(Trap()), KEY))
        assert get(stored, "a") is None
        stored.perform(Purge())
        assert Trap.sprung == []

    @pytest.mark.parametrize(
        "columns",
        [
            {"mode": 3, "value": "text"},
            {"mode": 1, "value": "text"},
            {"mode": 1, "value": 5},
            {"mode": 1, "value": None},
            {"mode": 0},
            {"mode": 99},
            {"mode": None},
            {"mode": "1; DROP TABLE Cache"},
            {"mode": 2},
            {"mode": 2, "value": None, "filename": None},
            {"mode": 2, "value": None, "filename": b"bytes"},
            {"mode": 2, "value": None, "filename": 5},
            {"expire_time": None},
        ],
        ids=str,
    )
    def test_a_row_that_is_not_bytes_is_refused(self, stored: DiskTier, path: Path, columns: dict[str, Any]) -> None:
        plant(path, **columns)
        assert get(stored, "a") == (None if "expire_time" in columns else REFUSED)
        put(stored, "a", b"again")
        assert get(stored, "a") == b"again"
        stored.perform(Delete(["a"]))
        assert stored.perform(Fetch(["a", "b"])).payloads == [None, LARGE]

    @pytest.mark.parametrize(
        "name",
        ["../secret", "../../etc/passwd", "/etc/passwd", "{secret}", "aa/bb/../../../secret", "cache.db", "", "."],
    )
    def test_a_file_outside_is_neither_read_nor_removed(
        self, stored: DiskTier, path: Path, tmp_path: Path, name: str
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        plant(path, mode=2, value=None, size=6, filename=name.format(secret=secret))
        assert get(stored, "a") == REFUSED
        put(stored, "a", b"again")
        assert secret.read_bytes() == b"secret"
        assert Path("/etc/passwd").exists()

    @pytest.mark.parametrize("part", ["file", "inner folder", "outer folder"])
    def test_no_link_is_followed(self, stored: DiskTier, path: Path, tmp_path: Path, part: str) -> None:
        (file,) = value_files(path)
        linked = {"file": file, "inner folder": file.parent, "outer folder": file.parent.parent}[part]
        moved = tmp_path / "moved"
        linked.rename(moved)
        linked.symlink_to(moved)
        assert file.read_bytes() == LARGE
        assert get(stored, "b") == REFUSED
        stored.perform(Delete(["b"]))
        assert moved.exists()

    def test_a_pipe_in_place_of_a_file_does_not_hold_the_reader(self, stored: DiskTier, path: Path) -> None:
        (file,) = value_files(path)
        file.unlink()
        os.mkfifo(file)
        assert get(stored, "b") == REFUSED

    @pytest.mark.parametrize("content", [b"", LARGE[:-1], LARGE + b"x"])
    def test_a_file_of_another_length_is_not_there(self, stored: DiskTier, path: Path, content: bytes) -> None:
        (file,) = value_files(path)
        file.write_bytes(content)
        assert get(stored, "b") is None

    def test_a_planted_marker_or_rule_that_is_not_bytes_is_not_there(self, stored: DiskTier, path: Path) -> None:
        stored.perform(Renew([(tag_dep("a"), new_id())], 60.0, [(new_id(), b"rule")]))
        run_sql(path, "UPDATE Marker SET id = 'text'")
        run_sql(path, "UPDATE Rule SET id = 5")
        assert stored.perform(Fetch([], [tag_dep("a")])).ids == [None]
        assert stored.perform(ReadRules()) == []
        (captured,) = stored.perform(Capture([tag_dep("a")], 60.0))
        assert stored.perform(Fetch([], [tag_dep("a")])).ids == [captured]

    def test_a_planted_setting_is_not_obeyed(self, stored: DiskTier, path: Path) -> None:
        stored.close()
        run_sql(path, "INSERT INTO Settings VALUES ('_disk', 'something else')")
        again = DiskTier(path)
        with pytest.raises(TierUnavailableError):
            get(again, "a")
        put(again, "a", b"anew")
        assert get(again, "a") == b"anew"
        again.close()

    def test_the_disk_class_takes_only_text_and_bytes(self, path: Path) -> None:
        disk = RawDisk(str(path))
        for key in (b"bytes", 5, None, ("a",)):
            with pytest.raises(TypeError):
                disk.put(key)
        for value in ("text", 5, None, Trap()):
            with pytest.raises(TypeError):
                disk.store(value, False)
        with pytest.raises(sqlite3.DatabaseError):
            disk.get(pickle.dumps("key"), False)
        with pytest.raises(OSError, match="not a payload"):
            disk.fetch(4, None, pickle.dumps(Trap()), False)
        assert Trap.sprung == []


class TestTheDirectory:
    def test_it_and_all_in_it_is_for_this_user_alone_whatever_the_umask(self, path: Path) -> None:
        before = os.umask(0)
        try:
            tier = DiskTier(path)
            put(tier, "a", LARGE)
            put(tier, "b", b"small")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        found = list(path.rglob("*"))
        assert {one.suffix for one in found} >= {".db", ".val", ".db-wal"}
        assert all(stat.S_IMODE(one.stat().st_mode) & 0o077 == 0 for one in found)
        tier.close()

    def test_an_older_database_that_others_can_read_is_made_private(self, path: Path) -> None:
        path.mkdir(mode=0o755)
        (path / "cache.db").touch(0o666)
        tier = DiskTier(path)
        put(tier, "a", b"1")
        assert stat.S_IMODE((path / "cache.db").stat().st_mode) == 0o600
        tier.close()

    def test_nothing_is_made_before_it_is_needed(self, path: Path) -> None:
        DiskTier(path).close()
        assert not path.exists()

    def test_missing_parents_are_made(self, tmp_path: Path) -> None:
        tier = DiskTier(tmp_path / "x" / "y" / "z")
        put(tier, "a", b"1")
        assert get(tier, "a") == b"1"
        tier.close()

    def test_a_symbolic_link_is_refused(self, tmp_path: Path, path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "real")
        with pytest.raises(SettingsError, match="symbolic link") as caught:
            DiskTier(path)
        assert caught.value.variable == "disk.path"

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_a_directory_that_others_can_write_to_is_refused_with_the_fix(self, path: Path, mode: int) -> None:
        path.mkdir()
        path.chmod(mode)
        with pytest.raises(SettingsError, match=f"chmod 700 {path}"):
            DiskTier(path)

    def test_another_users_directory_is_refused(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        with pytest.raises(SettingsError, match="belongs to user"):
            DiskTier(path)

    def test_a_file_is_refused(self, path: Path) -> None:
        path.touch()
        with pytest.raises(SettingsError, match="not a directory"):
            DiskTier(path)

    def test_what_became_unsafe_after_the_start_is_not_used(self, path: Path, tmp_path: Path) -> None:
        tier = DiskTier(path)
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "real")
        with pytest.raises(TierUnavailableError, match="symbolic link"):
            put(tier, "a", b"1")
        assert list((tmp_path / "real").iterdir()) == []
        tier.close()

    def test_a_linked_database_file_is_not_followed(self, path: Path, tmp_path: Path) -> None:
        path.mkdir(mode=0o700)
        target = tmp_path / "elsewhere.db"
        target.write_bytes(b"precious")
        (path / "cache.db").symlink_to(target)
        tier = DiskTier(path)
        with pytest.raises(TierUnavailableError):
            put(tier, "a", b"1")
        put(tier, "a", b"1")
        assert get(tier, "a") == b"1"
        assert target.read_bytes() == b"precious"
        tier.close()

    def test_variables_and_the_home_directory_are_expanded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SUB", "sub")
        monkeypatch.setenv("NESTED", "$SUB")
        assert confined_path("~/$SUB") == tmp_path / "sub"
        with pytest.raises(SettingsError, match="variable"):
            confined_path(tmp_path / "$NESTED")

    def test_a_size_limit_must_be_positive(self, path: Path) -> None:
        with pytest.raises(SettingsError, match="size_limit"):
            DiskTier(path, size_limit=0)


class TestFailures:
    def fails(self, tier: DiskTier) -> None:
        for operation in (
            Fetch(["a"], [NAMESPACE]),
            Store([Item("a", b"1", 60.0)]),
            Capture([NAMESPACE], 60.0),
            Renew([(NAMESPACE, new_id())], 60.0),
            Hold([NAMESPACE], new_id(), 60.0),
            Release([(NAMESPACE, new_id())], new_id(), 60.0),
            ReadRules(),
            Delete(["a"]),
            Purge(),
        ):
            with pytest.raises(TierUnavailableError) as caught:
                tier.perform(operation)
            assert caught.value.tier == "disk"
        for read in (tier.newest_change, lambda: tier.changes((1, b""))):
            with pytest.raises(TierUnavailableError) as caught:
                read()
            assert caught.value.tier == "disk"

    def test_a_directory_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        tier = DiskTier(tmp_path / "file" / "cache")
        self.fails(tier)
        tier.close()

    def test_it_comes_back_when_the_directory_does(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        tier = DiskTier(tmp_path / "file" / "cache")
        self.fails(tier)
        (tmp_path / "file").unlink()
        put(tier, "a", b"1")
        assert get(tier, "a") == b"1"
        tier.close()

    @pytest.mark.parametrize("message", ["attempt to write a readonly database", "database or disk is full"])
    def test_a_database_that_cannot_be_written_is_unavailable(
        self, tier: DiskTier, monkeypatch: pytest.MonkeyPatch, message: str
    ) -> None:
        put(tier, "a", b"1")
        database = tier._open()

        def refuse(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError(message)

        monkeypatch.setattr(database, "execute", refuse)
        monkeypatch.setattr(database, "executemany", refuse)
        self.fails(tier)
        monkeypatch.undo()
        assert get(tier, "a") == b"1"

    def test_a_full_disk_leaves_no_part_of_a_file_and_no_row(
        self, tier: DiskTier, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tier, "a", LARGE)
        real, written = RawDisk.write_file, list[str]()

        def fill_up(disk: RawDisk, filename: str, payload: bytes) -> None:
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(filename)
            real(disk, filename, payload)

        monkeypatch.setattr(RawDisk, "write_file", fill_up)
        with pytest.raises(TierUnavailableError, match="No space left"):
            tier.perform(Store([Item("b", LARGE, 60.0), Item("c", LARGE, 60.0)]))
        assert tier.perform(Fetch(["a", "b", "c"])).payloads == [LARGE, None, None]
        assert len(value_files(path)) == 1

    def test_a_write_that_breaks_off_leaves_no_file(
        self, tier: DiskTier, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tier, "a", b"1")
        real = open

        class Full:
            def __init__(self, handle: int, mode: str) -> None:
                self.file = real(handle, mode)

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def write(self, _payload: bytes) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setitem(RawDisk.write_file.__globals__, "open", Full)
        with pytest.raises(TierUnavailableError, match="No space left"):
            put(tier, "a", LARGE)
        assert value_files(path) == []
        assert get(tier, "a") == b"1"

    def test_a_lock_held_by_another_costs_the_timeout_and_then_everything_works(
        self, tier: DiskTier, path: Path
    ) -> None:
        put(tier, "a", b"1")
        other = sqlite3.connect(path / "cache.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            start = time.monotonic()
            with pytest.raises(TierUnavailableError):
                put(tier, "a", LARGE)
            assert time.monotonic() - start < 5
            assert get(tier, "a") == b"1"
            assert value_files(path) == []
        finally:
            other.close()
        put(tier, "a", b"2")
        assert get(tier, "a") == b"2"

    def test_opening_while_another_writes_gives_up_soon(self, tier: DiskTier, path: Path) -> None:
        put(tier, "a", b"1")
        second = DiskTier(path)
        other = sqlite3.connect(path / "cache.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            start = time.monotonic()
            with pytest.raises(TierUnavailableError):
                get(second, "a")
            assert time.monotonic() - start < 5
        finally:
            other.close()
        assert get(second, "a") == b"1"
        second.close()

    def test_text_that_cannot_be_encoded_is_not_a_crash(self, tier: DiskTier) -> None:
        with pytest.raises(TierUnavailableError):
            put(tier, "\ud800", b"1")
        with pytest.raises(TierUnavailableError):
            get(tier, "\ud800")
        put(tier, "a", b"1")
        assert get(tier, "a") == b"1"

    async def test_a_failure_is_the_same_in_a_loop(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        tier = DiskTier(tmp_path / "file" / "cache")
        with pytest.raises(TierUnavailableError):
            await tier.aperform(Fetch(["a"]))
        await tier.aclose()


class TestDamage:
    def spoil(self, path: Path, position: int = 0) -> None:
        with (path / "cache.db").open("r+b") as file:
            file.seek(position)
            file.write(b"spoiled!" * 512)

    def test_a_spoiled_header_costs_one_operation_and_all_that_was_stored(self, path: Path) -> None:
        tier = DiskTier(path)
        put(tier, "a", LARGE)
        (captured,) = tier.perform(Capture([NAMESPACE], 60.0))
        (path / "mine.txt").write_text("not the cache's")
        tier.close()
        self.spoil(path)
        again = DiskTier(path)
        with pytest.raises(TierUnavailableError):
            get(again, "a")
        assert again.perform(Fetch(["a"], [NAMESPACE])).payloads == [None]
        assert again.perform(Capture([NAMESPACE], 60.0)) != [captured]
        put(again, "a", b"anew")
        assert get(again, "a") == b"anew"
        assert value_files(path) == []
        assert (path / "mine.txt").exists()
        again.close()

    def test_a_database_of_someone_else_is_replaced(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        (path / "cache.db").touch(0o600)
        run_sql(path, "CREATE TABLE Cache (something TEXT)")
        tier = DiskTier(path)
        with pytest.raises(TierUnavailableError):
            get(tier, "a")
        put(tier, "a", b"1")
        assert get(tier, "a") == b"1"
        tier.close()

    def test_damage_found_while_in_use_is_repaired_for_every_tier_that_has_it_open(self, path: Path) -> None:
        first, second = DiskTier(path), DiskTier(path)
        for n in range(200):
            put(first, f"k{n}", b"x" * 2000)
        (captured,) = second.perform(Capture([NAMESPACE], 60.0))
        # The log back into the file, and then everything but the header gone.
        run_sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        for position in range(4096, (path / "cache.db").stat().st_size, 4096):
            self.spoil(path, position)
        third = DiskTier(path)
        for tier in (third, first, second):
            for _ in range(3):
                try:
                    put(tier, "a", b"anew")
                    tier.perform(Fetch([f"k{n}" for n in range(200)], [NAMESPACE]))
                except TierUnavailableError:
                    continue
                break
            else:
                pytest.fail("it does not recover")
        put(second, "b", b"shared")
        assert [get(tier, "b") for tier in (first, second, third)] == [b"shared"] * 3
        assert third.perform(Capture([NAMESPACE], 60.0)) != [captured]
        for tier in (first, second, third):
            tier.close()

    def test_an_answer_from_a_file_that_was_replaced_is_not_believed(self, path: Path, tier: DiskTier) -> None:
        (old,) = tier.perform(Capture([NAMESPACE], 60.0))
        for file in path.glob("cache.db*"):
            file.unlink()
        other = DiskTier(path)
        (new,) = other.perform(Capture([NAMESPACE], 60.0))
        assert new != old
        with pytest.raises(TierUnavailableError):
            tier.perform(Fetch([], [NAMESPACE]))
        assert tier.perform(Fetch([], [NAMESPACE])).ids == [new]
        other.close()

    def test_a_removed_directory_is_made_again(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        with pytest.raises(TierUnavailableError):
            put(tier, "a", b"2")
        put(tier, "a", b"3")
        assert get(tier, "a") == b"3"


class TestRoom:
    def test_what_would_expire_first_goes_first_when_there_is_too_much(self, path: Path) -> None:
        tier = DiskTier(path, size_limit=2_000_000)
        for n in range(200):
            put(tier, f"k{n}", LARGE, 1000.0 + n)
        kept = [n for n in range(200) if get(tier, f"k{n}") is not None]
        assert 5 < len(kept) < 60
        assert kept == list(range(200 - len(kept), 200))
        assert len(value_files(path)) == len(kept)
        tier.close()

    def test_markers_are_not_culled(self, path: Path) -> None:
        tier = DiskTier(path, size_limit=500_000)
        (captured,) = tier.perform(Capture([NAMESPACE], 60.0))
        for n in range(100):
            put(tier, f"k{n}", LARGE)
        assert tier.perform(Fetch([], [NAMESPACE])).ids == [captured]
        tier.close()

    def test_what_has_expired_takes_no_room_for_ever(self, path: Path) -> None:
        clock = ManualClock()
        tier = DiskTier(path, clock=clock)
        tier.perform(Capture([NAMESPACE], 1.0))
        tier.perform(Hold([tag_dep("a")], new_id(), 1.0))
        put(tier, "large", LARGE, 1.0)
        tier.perform(Store([Item(f"k{n}", b"x", 1.0) for n in range(100)]))
        clock.advance(10.0)
        tier.perform(Store([Item(f"n{n}", b"x", 60.0) for n in range(TIDY_EVERY)]))
        assert run_sql(path, "SELECT count(*) FROM Cache") == [(TIDY_EVERY,)]
        assert run_sql(path, "SELECT count(*) FROM Marker") == [(0,)]
        assert run_sql(path, "SELECT count(*) FROM Hold") == [(0,)]
        assert value_files(path) == []
        tier.close()

    def test_a_replaced_or_deleted_payload_takes_its_file_and_folders_along(self, tier: DiskTier, path: Path) -> None:
        put(tier, "a", LARGE)
        put(tier, "a", LARGE)
        assert len(value_files(path)) == 1
        tier.perform(Store([Item("a", LARGE, 60.0), Item("a", b"small", 60.0)]))
        assert get(tier, "a") == b"small"
        assert [one.name for one in path.iterdir() if one.is_dir()] == []

    def test_a_small_payload_is_written_by_one_statement_unless_a_file_has_to_go(
        self, tier: DiskTier, path: Path
    ) -> None:
        put(tier, "a", b"first")
        statements: list[str] = []
        connection = tier._open()._con
        connection.set_trace_callback(statements.append)
        put(tier, "a", b"second")
        # It is told once more for each trigger.
        assert {one.split()[0] for one in statements if not one.startswith("--")} == {"INSERT"}
        put(tier, "a", LARGE)
        put(tier, "a", b"third")
        connection.set_trace_callback(None)
        assert get(tier, "a") == b"third"
        assert value_files(path) == []

    def test_a_purge_leaves_no_payload_in_any_file(self, tier: DiskTier, path: Path) -> None:
        put(tier, "a", b"a secret of its own")
        put(tier, "b", b"a secret of its own" * 5000)
        tier.perform(Purge())
        assert all(b"a secret of its own" not in file.read_bytes() for file in path.rglob("*") if file.is_file())

    def test_a_read_writes_nothing(self, tier: DiskTier, path: Path) -> None:
        put(tier, "a", b"1")
        tier.perform(Capture([NAMESPACE], 60.0))
        before = run_sql(path, "PRAGMA data_version"), (path / "cache.db-wal").read_bytes()
        tier.perform(Fetch(["a", "b"], [NAMESPACE]))
        tier.perform(Capture([NAMESPACE], 60.0))
        assert (run_sql(path, "PRAGMA data_version"), (path / "cache.db-wal").read_bytes()) == before


class TestTheLogOfChanges:
    def test_it_begins_with_a_row_that_no_other_database_has(self, tmp_path: Path) -> None:
        places = []
        for name in ("a", "b"):
            tier = DiskTier(tmp_path / name)
            places.append(tier.newest_change())
            tier.close()
            again = DiskTier(tmp_path / name)
            assert again.newest_change() == places[-1]
            assert again.changes(places[-1]) == (places[-1], [])
            again.close()
        assert places[0] != places[1]

    def test_a_place_that_is_not_in_it_has_no_changes_after_it(self, tier: DiskTier) -> None:
        number, place_id = tier.newest_change()
        assert tier.changes((number, b"another")) is None
        assert tier.changes((number + 1, place_id)) is None

    def test_what_failed_is_not_in_it(self, tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
        place, database = tier.newest_change(), tier._open()
        real = database.execute

        def fail(statement: str, arguments: Any = ()) -> Any:
            if statement.startswith("INSERT INTO Change"):
                raise sqlite3.OperationalError("database or disk is full")
            return real(statement, arguments)

        with monkeypatch.context() as patch:
            patch.setattr(database, "execute", fail)
            with pytest.raises(TierUnavailableError):
                tier.perform(Renew([(NAMESPACE, new_id())], 60.0))
        assert tier.perform(Fetch([], [NAMESPACE])).ids == [None]
        assert tier.changes(place) == (place, [])


class TestNamespaces:
    def test_no_two_of_them_share_a_key_however_they_are_spelled(self, path: Path) -> None:
        first, second = DiskTier(path, namespace="a"), DiskTier(path, namespace="a:b")
        put(first, "b:c", b"first")
        put(second, "c", b"second")
        assert (get(first, "b:c"), get(second, "c"), get(first, "c")) == (b"first", b"second", None)
        second.perform(Purge())
        assert get(first, "b:c") == b"first"
        first.close()
        second.close()

    def test_what_was_stored_is_there_after_a_restart(self, path: Path) -> None:
        first = DiskTier(path, namespace="a")
        put(first, "k", b"1")
        (captured,) = first.perform(Capture([NAMESPACE], 60.0))
        first.close()
        second = DiskTier(path, namespace="a")
        fetched = second.perform(Fetch(["k"], [NAMESPACE]))
        assert (fetched.payloads, fetched.ids) == ([b"1"], [captured])
        second.close()


class TestThreadsAndClosing:
    def test_threads_share_it_and_leave_no_connection_behind(self, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        errors: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for turn in range(20):
                    get(tier, "a")
                    with suppress(TierUnavailableError):  # another one may be writing for too long
                        put(tier, f"{n}", b"%d" % turn)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == []
        gc.collect()
        assert len(tier._open()._links) == 1

    def test_closing_closes_the_connections_of_all_threads(self, path: Path) -> None:
        tier = DiskTier(path)
        put(tier, "a", b"1")
        go, opened = threading.Event(), threading.Event()

        def stay() -> None:
            get(tier, "a")
            opened.set()
            go.wait(30)

        thread = threading.Thread(target=stay)
        thread.start()
        opened.wait(30)
        links = list(tier._open()._links)
        assert len(links) == 2
        tier.close()
        for link in links:
            with pytest.raises(sqlite3.ProgrammingError):
                link.connection.execute("SELECT 1")
        go.set()
        thread.join(30)
        assert not (path / "cache.db-wal").exists()

    async def test_after_closing_every_operation_is_refused(self, tier: DiskTier) -> None:
        assert (await tier.aperform(Fetch(["a"]))).payloads == [None]
        await tier.aclose()
        await tier.aclose()
        with pytest.raises(TierUnavailableError, match="closed"):
            tier.perform(Fetch(["a"]))
        with pytest.raises(TierUnavailableError, match="closed"):
            await tier.aperform(Fetch(["a"]))

    async def test_a_loop_is_not_blocked_and_several_operations_run_at_once(self, tier: DiskTier) -> None:
        await asyncio.gather(*(tier.aperform(Store([Item(f"k{n}", b"%d" % n, 60.0)])) for n in range(20)))
        fetched = await tier.aperform(Fetch([f"k{n}" for n in range(20)]))
        assert fetched.payloads == [b"%d" % n for n in range(20)]


def _capture(path: str, start: Any, answers: Any) -> None:
    tier = DiskTier(path, timeout=20.0)
    start.wait(30)
    answers.put(tier.perform(Capture([tag_dep("a"), tag_dep("b")], 60.0)))
    tier.close()


def _hold_the_lock(path: str, ready: Any) -> None:
    connection = sqlite3.connect(Path(path) / "cache.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    ready.set()
    threading.Event().wait(60)


class TestProcesses:
    def test_two_processes_that_capture_one_marker_get_one_id(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        spawn = multiprocessing.get_context("spawn")
        start, answers = spawn.Barrier(2), spawn.Queue()
        workers = [spawn.Process(target=_capture, args=(str(path), start, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        first, second = answers.get(timeout=30), answers.get(timeout=30)
        for worker in workers:
            worker.join(30)
        assert first == second == tier.perform(Fetch([], [tag_dep("a"), tag_dep("b")])).ids

    def test_a_process_that_is_killed_while_it_writes_leaves_the_tier_working(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        spawn = multiprocessing.get_context("spawn")
        ready = spawn.Event()
        worker = spawn.Process(target=_hold_the_lock, args=(str(path), ready))
        worker.start()
        assert ready.wait(30)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(TierUnavailableError):
            put(tier, "a", b"2")
        assert get(tier, "a") == b"1"
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(30)
        put(tier, "a", b"3")
        assert get(tier, "a") == b"3"

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_works_and_so_does_its_parent(self, path: Path, tier: DiskTier) -> None:
        put(tier, "a", b"1")
        asyncio.run(tier.aperform(Fetch(["a"])))
        stop, errors = threading.Event(), list[BaseException]()

        def write_all_the_time() -> None:
            while not stop.is_set():
                try:
                    put(tier, "busy", LARGE)
                except TierUnavailableError:
                    continue
                except BaseException as error:
                    errors.append(error)
                    return

        writer = threading.Thread(target=write_all_the_time)
        writer.start()
        try:
            for n in range(3):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        for _ in range(200):
                            try:
                                put(tier, f"child-{n}", b"%d" % n)
                                found = asyncio.run(tier.aperform(Fetch(["a", f"child-{n}"])))
                            except TierUnavailableError:
                                continue
                            code = 0 if found.payloads == [b"1", b"%d" % n] else 2
                            break
                        tier.close()
                    finally:
                        os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            stop.set()
            writer.join(30)
        assert errors == []
        assert tier.perform(Fetch([f"child-{n}" for n in range(3)])).payloads == [b"0", b"1", b"2"]
        assert run_sql(path, "PRAGMA integrity_check") == [("ok",)]


class TestGate:
    def test_it_is_held_only_once_everyone_has_left(self) -> None:
        gate = Gate()
        gate.enter(0)
        gate.enter(0)
        assert not gate.hold(0)
        gate.leave()
        gate.leave()
        assert gate.hold(0)

    def test_nobody_enters_while_it_is_held(self) -> None:
        gate = Gate()
        assert gate.hold(0)
        assert not gate.hold(0)
        with pytest.raises(TimeoutError):
            gate.enter(0)
        gate.free()
        gate.enter(0)
        gate.leave()

    def test_who_waits_to_enter_enters_when_it_is_free_again(self) -> None:
        gate, entered = Gate(), threading.Event()
        assert gate.hold(0)

        def enter() -> None:
            gate.enter(30)
            entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        gate.free()
        assert entered.wait(30)
        waiting.join(30)
        assert not gate.hold(0)


def test_diskcache_itself_can_read_what_the_tier_stores(tier: DiskTier, path: Path) -> None:
    put(tier, "a", b"1")
    put(tier, "b", LARGE)
    with diskcache.Cache(str(path)) as cache:
        assert (cache.get("0::a"), cache.get("0::b")) == (b"1", LARGE)
        assert cache.check() == []


def test_a_directory_that_is_written_to_while_it_is_opened_has_lost_nothing(
    tier: DiskTier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier.perform(Capture([NAMESPACE], 60.0))
    put(tier, "k", b"payload")
    is_current = Mark.is_current

    def meanwhile(mark: Mark) -> bool:
        tier.perform(Renew([(tag_dep("t"), new_id())], 60.0))
        return is_current(mark)

    monkeypatch.setattr(Mark, "is_current", meanwhile)
    other = DiskTier(path)
    try:
        assert other.perform(Fetch(["k"], [NAMESPACE])).payloads == [b"payload"]
    finally:
        other.close()
