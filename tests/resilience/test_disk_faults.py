"""The disk tier among damage, other processes and disks without room: what it brings back, what it costs, how it mends.

Many rounds of random harm are a scenario of the fault runner (`damaged-disk`), and processes that share a directory are
another one (`shared-disk`).
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.damaging import REBUILT, TROUBLES, cut, flip
from faults.nursery import nursery
from faults.scenarios_processes import play
from servers import wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Capture, Fetch, Item, Renew, Store
from novacron_cache.errors import TierUnavailableError
from novacron_cache.markers import new_id, tag_dep
from novacron_cache.tiers import disk_database, disk_mark
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_mark import NAME, Mark

DEP = tag_dep("a")
SLACK = 5
"""How many times longer than promised a call may take on a busy machine."""

WRITER = """
import os, sys
from novacron_cache import Cache, CacheSettings
cache = Cache(CacheSettings(namespace="harm", disk={"path": sys.argv[1]}))
for value in ("old", "new"):
    cache.set("key", value)
    cache.set("other", value)
    if value == "old":
        print(os.stat(sys.argv[1] + "/cache.db-wal").st_size, flush=True)
assert cache.invalidate("key", "other").done
os._exit(0)  # as if it were killed
"""


@pytest.fixture(scope="module", autouse=True)
def _processes() -> Iterator[None]:
    with nursery():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def tiers(path: Path) -> Iterator[Callable[[], DiskTier]]:
    """Make tiers on one directory, as different processes have them."""
    made: list[DiskTier] = []

    def make() -> DiskTier:
        made.append(DiskTier(path, timeout=1.0))
        return made[-1]

    yield make
    for tier in made:
        tier.close()


def captured(tier: DiskTier) -> bytes | None:
    found: bytes | None = tier.perform(Capture([DEP], 60.0))[0]
    return found


def current(tier: DiskTier) -> bytes | None:
    found: bytes | None = tier.perform(Fetch([], [DEP])).ids[0]
    return found


class TestWhatALostLogWouldBringBack:
    """After its latest transactions are gone, a database is as it was: with the ids of what was invalidated since."""

    @pytest.mark.parametrize("harm", ["removed", "cut", "spoiled"])
    def test_a_value_that_was_invalidated_before_the_log_was_lost_is_not_served(self, path: Path, harm: str) -> None:
        said = subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, capture_output=True, text=True)
        log = path / "cache.db-wal"
        if harm == "removed":
            log.unlink()
        elif harm == "cut":
            os.truncate(log, int(said.stdout))
        else:
            data = bytearray(log.read_bytes())
            data[int(said.stdout) + 30] ^= 1
            log.write_bytes(data)
        with Cache(CacheSettings(namespace="harm", disk={"path": str(path)})) as cache:
            assert cache.get_many(["key", "other"]) == {}
            cache.set("key", "newest")
            assert cache.get("key") == "newest"

    def test_nothing_is_lost_where_the_log_is_whole(self, path: Path, tiers: Callable[[], DiskTier]) -> None:
        first = tiers()
        first.perform(Renew([(DEP, new_id())], 60.0))
        known = current(first)
        assert known is not None
        assert current(tiers()) == known

    def test_ids_from_before_the_machine_was_started_are_not_believed(
        self, tiers: Callable[[], DiskTier], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = tiers()
        before.perform(Store([Item("key", b"payload", 60.0)]))
        assert captured(before) is not None
        before.close()
        monkeypatch.setattr(disk_mark, "_boot", lambda: b"another boot".ljust(36))
        after = tiers()
        found = after.perform(Fetch(["key"], [DEP]))
        assert found.payloads == [b"payload"]
        assert found.ids == [None]

    def test_without_the_mark_nothing_is_believed_and_nothing_fails(
        self, path: Path, tiers: Callable[[], DiskTier]
    ) -> None:
        before = tiers()
        captured(before)
        before.close()
        (path / NAME).unlink()
        after = tiers()
        assert current(after) is None
        assert captured(after) == current(after)

    def test_a_database_that_is_older_than_its_mark_is_begun_anew(
        self, path: Path, tiers: Callable[[], DiskTier]
    ) -> None:
        before = tiers()
        before.perform(Store([Item("key", b"payload", 60.0)]))
        before.perform(Renew([(DEP, new_id())], 60.0))
        before.close()
        mark = Mark(path)
        mark.note(mark.newest() + 1)
        mark.close()
        after = tiers()
        with pytest.raises(TierUnavailableError, match="lost its latest changes"):
            current(after)
        assert after.perform(Fetch(["key"])).payloads == [None]
        assert captured(after) == current(after)


class TestTheMark:
    def test_the_highest_number_counts_in_whatever_order_they_were_noted(self, tmp_path: Path) -> None:
        mark = Mark(tmp_path)
        mark.begin(100)
        numbers = list(range(101, 400))
        random.Random(1).shuffle(numbers)  # noqa: S311 - it is to be repeated
        for start in range(0, len(numbers), 10):
            batch = sorted(numbers[start : start + 10])
            for number in reversed(batch):
                mark.note(number)
        mark.note(400)
        assert mark.newest() == 400
        mark.close()

    def test_a_spoiled_slot_does_not_count(self, tmp_path: Path) -> None:
        mark = Mark(tmp_path)
        mark.begin(7)
        mark.note(8)
        data = bytearray((tmp_path / NAME).read_bytes())
        data[-1] ^= 1
        (tmp_path / NAME).write_bytes(data)
        assert mark.newest() == 7
        mark.close()

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "other").touch()
        (tmp_path / NAME).symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="symbolic links"):
            Mark(tmp_path)


class TestHarmWhileItIsInUse:
    @pytest.mark.parametrize("name", ["cache.db-wal", "cache.db-shm", "cache.db"])
    def test_after_a_file_was_removed_all_processes_agree_again(
        self, path: Path, tiers: Callable[[], DiskTier], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(disk_database, "_LOOK", 0.0)
        ours, theirs = tiers(), tiers()
        for tier in (ours, theirs):
            captured(tier)
            current(tier)
        (path / name).unlink()

        def agree() -> bool:
            try:
                fresh = new_id()
                ours.perform(Renew([(DEP, fresh)], 60.0))
                return current(theirs) == fresh == current(tiers())
            except TierUnavailableError:
                return False

        wait_until(agree, deadline=REBUILT * SLACK)

    def test_a_log_that_was_cut_short_under_its_readers_does_not_keep_them_for_ever(
        self, path: Path, tiers: Callable[[], DiskTier]
    ) -> None:
        """Nobody recovers a log that is in use, so reading beyond its end would fail until the last one has left."""
        tier = tiers()
        for n in range(100):
            tier.perform(Store([Item(f"key-{n}", b"%d" % n * 500, 60.0)]))
        os.truncate(path / "cache.db-wal", 5000)

        def works() -> bool:
            try:
                tier.perform(Store([Item("key-1", b"again", 60.0)]))
                return bool(tier.perform(Fetch([f"key-{n}" for n in range(100)])).payloads[1] == b"again")
            except TierUnavailableError:
                return False

        wait_until(works, deadline=REBUILT * SLACK)

    @pytest.mark.parametrize("harm", [flip, cut])
    def test_what_is_read_from_a_spoiled_database_is_whole_or_not_there(
        self, path: Path, tiers: Callable[[], DiskTier], harm: Callable[[Path, random.Random], None]
    ) -> None:
        """The tier checks no payload, which has a checksum of its own; but it never raises anything else."""
        chance = random.Random(2)  # noqa: S311 - it is to be repeated
        for _ in range(20):
            tier = tiers()
            try:
                tier.perform(Store([Item(f"key-{n}", b"%d" % n * 500, 60.0) for n in range(50)]))
                harm(path / "cache.db", chance)
                found = tier.perform(Fetch([f"key-{n}" for n in range(50)])).payloads
            except TierUnavailableError:
                continue
            finally:
                tier.close()
            assert all(one is None or isinstance(one, bytes) for one in found)

    def test_erasing_a_large_directory_does_not_hold_the_caller(
        self, path: Path, tiers: Callable[[], DiskTier], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, go_on = threading.Event(), threading.Event()

        def slowly(folder: Path, ignore_errors: bool) -> None:
            began.set()
            assert go_on.wait(30)

        monkeypatch.setattr(disk_database, "rmtree", slowly)
        tier = tiers()
        tier.perform(Store([Item("large", bytes(100_000), 60.0)]))
        tier.close()
        (path / "cache.db").write_bytes(b"no database" * 1000)
        again = tiers()
        try:
            with pytest.raises(TierUnavailableError):
                current(again)
            assert began.wait(30)
            assert again.perform(Fetch(["large"])).payloads == [None]
        finally:
            go_on.set()

    def test_what_somebody_did_not_come_to_remove_is_removed_by_the_next_who_opens(
        self, path: Path, tiers: Callable[[], DiskTier]
    ) -> None:
        tiers().perform(Store([Item("key", b"payload", 60.0)]))
        trash = path / "trash-0123456789abcdef"
        (trash / "aa").mkdir(parents=True)
        (path / "trash-mine").mkdir()
        current(tiers())
        wait_until(lambda: not trash.exists())
        assert (path / "trash-mine").exists()


class TestWithoutRoomOrPermission:
    @pytest.mark.parametrize("kind", TROUBLES)
    def test_calls_go_on_own_invalidations_are_obeyed_and_it_comes_back(self, tmp_path: Path, kind: str) -> None:
        """Pages are read and written before, while and after: on a small file system, with limits, without rights."""
        tmp_path.chmod(0o711)
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o711)
        found = play("faults.damaging", [kind, str(tmp_path)], tmp_path)
        assert "failed" not in found, found
        assert found["errors"] == []
        assert (found["wrong"], found["old"]) == (0, 0)
        assert found["reads"] >= 3 * 24
        assert found["rebuilt"] <= REBUILT
        assert found["slowest"] <= 0.05 * SLACK

    def test_a_disk_that_stays_full_empties_the_directory_rather_than_keep_what_was_invalidated(
        self, path: Path, tiers: Callable[[], DiskTier], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tier = tiers()
        tier.perform(Store([Item("key", b"payload", 60.0)]))
        full = True

        def note(self: Mark, number: int) -> None:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Mark, "note", note)
        monkeypatch.setattr("novacron_cache.tiers.disk.FULL_FOR", 0.0)
        for _ in range(2):
            with pytest.raises(TierUnavailableError, match="No space left"):
                tier.perform(Renew([(DEP, new_id())], 60.0))
        full = False
        assert tiers().perform(Fetch(["key"])).payloads == [None]
        assert captured(tier) == current(tier)


class TestOtherProcesses:
    def test_eight_of_them_are_not_held_up_by_one_that_was_stopped_in_a_transaction(self, tmp_path: Path) -> None:
        found: dict[str, list[dict[str, Any]]] = play("faults.damaging", ["crowd", str(tmp_path), "1.5"], tmp_path)
        assert [one for reports in found.values() for one in reports if "failed" in one] == []
        meanwhile, (after,) = found["meanwhile"], found["after"]
        assert len(meanwhile) == 8
        for one in (*meanwhile, after):
            assert one["errors"] == []
            assert (one["wrong"], one["old"]) == (0, 0)
        assert max(one["slowest"] for one in meanwhile) <= 0.05 * SLACK * 2  # ten processes on few cores
        assert after["rebuilt"] <= REBUILT

    def test_one_that_was_stopped_while_it_opened_the_database_holds_a_call_up_for_a_moment_only(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tier = DiskTier(path)
        tier.perform(Store([Item("key", b"payload", 60.0)]))
        tier.close()
        waits: list[float] = []
        sleep = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: (waits.append(seconds), sleep(seconds)))
        again = DiskTier(path)
        with (
            disk_database.locked(path, 0.0),
            pytest.raises(TierUnavailableError, match="being opened by another process"),
        ):
            again.perform(Fetch(["key"]))
        monkeypatch.undo()
        assert sum(waits) <= 0.05
        assert again.perform(Fetch(["key"])).payloads == [b"payload"]
        again.close()

    def test_a_database_that_is_not_ours_is_not_waited_for(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        connection = sqlite3.connect(path / "cache.db")
        connection.execute("CREATE TABLE Cache (key)")
        connection.commit()
        connection.close()
        tier = DiskTier(path)
        with pytest.raises(TierUnavailableError):
            current(tier)
        assert current(tier) is None
        tier.close()
