"""The disk tier trusts no row and no file: what was planted there is refused, and what is damaged is replaced."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from unit.disk.rows import KEY, LARGE, Trap, get, plant, put, run_sql, value_files

from novacron_cache.codecs.envelope import REFUSED
from novacron_cache.effects import Capture, Delete, Fetch, Purge, ReadRules, Renew
from novacron_cache.errors import TierUnavailableError
from novacron_cache.markers import NAMESPACE, new_id, tag_dep
from novacron_cache.tiers.backup_file import Records
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_database import RawDisk


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

    @pytest.mark.parametrize(
        ("marker_id", "rule_id"), [("text", 5), (5, "text"), (b"x" * 12, b"y" * 12), (b"", 1.5)], ids=repr
    )
    def test_a_planted_marker_or_rule_that_is_no_id_is_not_there(
        self, stored: DiskTier, path: Path, tmp_path: Path, marker_id: object, rule_id: object
    ) -> None:
        stored.perform(Renew([(tag_dep("a"), new_id())], 60.0, [(new_id(), b"rule")]))
        run_sql(path, "UPDATE Marker SET id = ?", (marker_id,))
        run_sql(path, "UPDATE Rule SET id = ?", (rule_id,))
        assert stored.perform(Fetch([], [tag_dep("a")])).ids == [None]
        assert stored.perform(ReadRules()) == []
        stored.back_up(tmp_path / "backup", markers=True)
        with (tmp_path / "backup").open("rb") as file:
            assert {record[0] for record in Records(file, "backup")} == {"p"}
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
