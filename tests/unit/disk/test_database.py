"""The disk tier's files: what is read of them, what is not theirs, and what becomes of each failure of the system."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import wait_until

from novacron_cache.effects import Fetch, Item, Renew, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.markers import new_id, tag_dep
from novacron_cache.testing import ManualClock
from novacron_cache.tiers import disk, disk_database, disk_mark
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_database import RawDisk, locked, remove_trash
from novacron_cache.tiers.disk_mark import Mark
from novacron_cache.tiers.gate import Gate

LARGE = b"large" * 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tier(path: Path) -> Iterator[DiskTier]:
    tier = DiskTier(path)
    yield tier
    tier.close()


def put(tier: DiskTier, key: str, payload: bytes, ttl: float = 60.0) -> None:
    tier.perform(Store([Item(key, payload, ttl)]))


def get(tier: DiskTier, key: str) -> bytes | None:
    found: bytes | None = tier.perform(Fetch([key])).payloads[0]
    return found


# -- what is there -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_scan_gives_each_key_of_its_own_namespace_that_has_not_expired_once(path: Path, count: int) -> None:
    clock = ManualClock()
    tier, other = (DiskTier(path, namespace=name, clock=clock) for name in ("shop", "shop2"))
    for key in "abc":
        put(tier, key, b"1", ttl=60.0)
    put(tier, "short", b"1", ttl=5.0)
    put(other, "theirs", b"1")
    clock.advance(10.0)
    batches = list(tier.scan(count))
    assert [key for batch in batches for key in batch] == ["a", "b", "c"]
    assert max(map(len, batches)) <= count
    assert list(DiskTier(path, namespace="empty", clock=clock).scan()) == []
    for one in (tier, other):
        one.close()


def test_the_volume_is_what_the_payloads_and_the_database_take(tier: DiskTier) -> None:
    before = tier.volume()
    put(tier, "a", LARGE)
    assert len(LARGE) <= tier.volume() - before < 2 * len(LARGE)


def test_rows_are_of_text_and_payloads_are_bytes_wherever_they_are_kept(tier: DiskTier, path: Path) -> None:
    put(tier, "a", LARGE)
    values = RawDisk(str(path), min_file_size=1000)
    assert values.put("key") == ("key", True)
    assert values.get("key", True) == "key"
    size, mode, name, value = values.store(b"small", key="key")
    assert values.fetch(mode, name, value, False) == b"small"
    size, mode, name, value = values.store(LARGE, key="key")
    assert (size, value) == (len(LARGE), None)
    assert values.fetch(mode, name, value, False) == LARGE
    values.remove(name)
    with pytest.raises(FileNotFoundError):
        values.fetch(mode, name, value, False)


def test_a_value_whose_file_is_gone_is_not_there(tier: DiskTier, path: Path) -> None:
    put(tier, "a", LARGE)
    (file,) = path.glob("*/*/*.val")
    shutil.rmtree(file.parent.parent)
    assert get(tier, "a") is None
    put(tier, "a", LARGE)
    assert get(tier, "a") == LARGE


def test_a_file_that_cannot_be_opened_is_a_failure_and_not_a_miss(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tier, "a", LARGE)
    original = os.open

    def refuse(name: Any, flags: int, *args: Any, **options: Any) -> int:
        if str(name).endswith(".val"):
            raise OSError(errno.EMFILE, "too many open files")
        return original(name, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(TierUnavailableError, match="too many open files"):
            get(tier, "a")
    assert get(tier, "a") == LARGE


@pytest.mark.parametrize(("times", "stored"), [(1, True), (3, True), (4, False)])
def test_a_folder_that_others_empty_at_the_same_time_is_made_again_a_few_times(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, times: int, stored: bool
) -> None:
    put(tier, "before", b"1")
    original, left = os.open, [times]

    def remove_first(name: Any, flags: int, *args: Any, **options: Any) -> int:
        if str(name).endswith(".val") and left[0]:
            left[0] -= 1
            raise FileNotFoundError(errno.ENOENT, "removed")
        return original(name, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", remove_first)
        if stored:
            put(tier, "a", LARGE)
        else:
            with pytest.raises(TierUnavailableError):
                put(tier, "a", LARGE)
    assert get(tier, "a") == (LARGE if stored else None)
    assert get(tier, "before") == b"1"


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_directory_that_somebody_else_opens_all_the_while_is_given_up(tier: DiskTier, path: Path) -> None:
    path.mkdir(mode=0o700)
    handle = os.open(path / "cache.db-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="being opened"), locked(path, 0.01):
        pass
    with pytest.raises(TierUnavailableError, match="being opened"):
        get(tier, "a")
    os.close(handle)
    assert get(tier, "a") is None


def test_a_database_of_somebody_else_is_not_believed(
    tier: DiskTier, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tier, "a", b"1")
    tier.close()
    owner = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(disk_database.os, "lstat", _owned_by(owner + 1))
        with pytest.raises(disk_database.Damaged, match="belongs to user"):
            disk_database._make_private(path / "cache.db")
    again = DiskTier(path)
    assert get(again, "a") == b"1"
    again.close()


def _owned_by(user: int) -> Any:
    original = os.lstat

    def lstat(name: Any, **options: Any) -> os.stat_result:
        facts = list(original(name, **options))
        facts[4] = user
        return os.stat_result(facts)

    return lstat


def test_a_database_that_has_lost_its_latest_changes_is_made_anew(path: Path) -> None:
    first = DiskTier(path)
    put(first, "a", b"1")
    first.perform(Renew([(tag_dep("t"), new_id())], 60.0))
    first.close()
    saved = (path / "cache.db").read_bytes()
    second = DiskTier(path)
    second.perform(Renew([(tag_dep("t"), new_id())], 60.0))
    second.close()
    (path / "cache.db").write_bytes(saved)  # as a crash of the machine may bring it back
    third = DiskTier(path)
    with pytest.raises(TierUnavailableError, match="lost its latest changes"):
        get(third, "a")
    assert get(third, "a") is None, "an invalidation was lost, so nothing from before it may be served"
    put(third, "a", b"2")
    assert get(third, "a") == b"2"
    third.close()


def test_what_was_erased_is_removed_also_where_no_thread_is_to_be_had(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    trash = path / ("trash-" + "0" * 16)
    trash.mkdir(parents=True)
    (trash / "file").write_bytes(LARGE)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    remove_trash(path)
    assert list(path.iterdir()) == []


def test_a_failed_statement_leaves_no_transaction_open(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tier, "a", b"1")
    database = tier._open()
    database.execute("BEGIN IMMEDIATE")  # as if the rollback had failed too
    assert database.in_transaction()
    disk._drop_broken(database)
    assert not database.in_transaction()
    disk._drop_broken(database)
    put(tier, "a", b"2")
    assert get(tier, "a") == b"2"
    database.close()
    database.close()
    assert get(tier, "a") == b"2"


def test_a_disk_that_stays_full_is_emptied_and_one_that_was_full_for_a_moment_is_not(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tier, "a", b"1")
    monkeypatch.setattr(disk, "FULL_FOR", 60.0)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert not tier._without_room(tier._open())
    now[0] += disk.FULL_SPELL + 1.0
    assert not tier._without_room(tier._open()), "it had room in between"
    for _ in range(9):
        now[0] += 7.0
        emptied = tier._without_room(tier._open())
    assert emptied
    assert not tier._without_room(tier._open()), "from then on it counts anew"


def test_a_recovery_that_cannot_have_the_tier_for_itself_leaves_it_as_it_is(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tier, "a", b"1")
    database = tier._open()
    monkeypatch.setattr(Gate, "hold", lambda _, patience: False)
    tier._recover(database, sqlite3.DatabaseError("damaged"))
    assert tier._open() is database
    tier.close()  # neither waits for ever nor gives back what it does not hold
    tier.close()


# -- the file of the newest change -------------------------------------------------------------------------------------


def test_a_mark_is_a_file_and_its_handle_is_closed_once(path: Path) -> None:
    path.mkdir()
    mark = Mark(path)
    mark.begin(3)
    assert mark.is_current()
    mark.note(7)
    assert mark.newest() == 7
    mark.close()
    mark.close()
    other = Mark(path)
    handle = other._handle
    assert other.newest() == 7
    del other
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_what_is_no_file_is_no_mark(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / disk_mark.NAME)
    with pytest.raises(OSError, match="is not a file"):
        Mark(path)


def test_a_mark_that_was_written_in_part_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir()
    mark = Mark(path)
    mark.begin(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 1)
        with pytest.raises(OSError, match="could not be written"):
            mark.note(2)
    assert mark.newest() == 1
    mark.close()


def test_where_the_system_does_not_tell_of_its_boots_every_one_is_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise FileNotFoundError

    path.mkdir()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    mark = Mark(path)
    assert not mark.is_current()
    mark.begin(0)
    assert mark.is_current()
    mark.close()


def test_a_directory_is_tidied_of_trash_when_it_is_opened(tier: DiskTier, path: Path) -> None:
    trash = path / ("trash-" + "a" * 16)
    trash.mkdir(parents=True)
    path.chmod(0o700)
    (trash / "file").write_bytes(b"1")
    assert get(tier, "a") is None
    wait_until(lambda: not trash.exists())
