"""The disk tier: its directory, its room, its log of changes, and how every failure of it is one kind of error."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import diskcache
import pytest
from unit.disk.rows import LARGE, get, put, run_sql, value_files

from novacron_cache.effects import Capture, Delete, Fetch, Hold, Item, Purge, ReadRules, Release, Renew, Store
from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.markers import NAMESPACE, new_id, tag_dep
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.disk import TIDY_EVERY, DiskTier
from novacron_cache.tiers.disk_database import RawDisk, confined_path


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


def test_diskcache_itself_can_read_what_the_tier_stores(tier: DiskTier, path: Path) -> None:
    put(tier, "a", b"1")
    put(tier, "b", LARGE)
    with diskcache.Cache(str(path)) as cache:
        assert (cache.get("0::a"), cache.get("0::b")) == (b"1", LARGE)
        assert cache.check() == []
