"""What processes share besides payloads, in the form of version 1: names, rules, figures and backups.

`test_golden.py` has the payloads. Two versions of an application run side by side during a deploy, and a cache outlives
both: if a name moved, one would invalidate what the other does not look at. So what is written here is not changed;
another form gets another number beside it.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from novacron_cache.effects import Capture, Ending, Fetch, Item, ReadRules, Renew, Store
from novacron_cache.keys import (
    KeyTemplate,
    dictionary_key,
    is_dictionary_key,
    newest_key,
    stored_key,
    stored_text_key,
)
from novacron_cache.markers import NAMESPACE, RULES, WATCHED, Rule, dependencies
from novacron_cache.observe.snapshot import Snapshot
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.backup_file import Records
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.redis_commands import Commands

BACKUP = Path(__file__).parents[1] / "golden" / "backup-v2.nclb"
ID = bytes(range(8))
HEX = "0001020304050607"
CREATED = 1_800_000_000.0

VALUES: list[tuple[Any, str]] = [
    ("vm-1", "vm-1"),
    ("a:b é*", "a:b%20é%2A"),
    ("", ""),
    (1, "~i1"),
    (-7, "~i-7"),
    (True, "~t"),
    (None, "~n"),
    (1.5, "~d1.5"),
    (b"\x00\xff", "~b00ff"),
    (UUID(int=5), "~u00000000000000000000000000000005"),
    (Decimal("1.10"), "~N1.10"),
    (date(2026, 1, 2), "~Y2026-01-02"),
    (datetime(2026, 1, 2, 3, 4, 5, 678, UTC), "~D2026-01-02T03:04:05.000678+00:00;0;datetime.timezone.utc"),
    (timedelta(1, 2, 3), "~P1;2;3"),
    ((1, "a"), "~(~i1~,a~,~)"),
    (["x"], "~lx~,~)"),
    (frozenset({1, 2}), "~z~i1~,~i2~,~)"),
]


def stored(template: str, **values: Any) -> str:
    parsed = KeyTemplate.parse(template)
    return stored_key("VMState", parsed, parsed.values(values))


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[type(value).__name__ for value, _ in VALUES])
def test_a_value_stands_in_a_stored_key_as_it_did(value: Any, text: str) -> None:
    assert stored("vm:<x>:state", x=value) == f"VMState:vm:<{text}>:state"


def test_stored_keys_of_converters_of_great_length_and_of_plain_text_stay() -> None:
    assert stored("vm:<a>:<int:b>", a="1", b=1) == "VMState:vm:<1>:<int~:~i1>"
    long = stored("vm:<x>", x="y" * 400)
    assert long == "VMState:vm:<" + "y" * 186 + "~h2e3e04e99813835ab5429bf37108f8d48a58d6a7"
    assert stored_text_key("", "greeting: é *") == ":~kgreeting:%20é%20%2A"
    assert stored_text_key("a:b", "x") == "a%3Ab:~kx"


def test_dictionaries_lie_beside_values_under_keys_that_no_value_can_have() -> None:
    assert dictionary_key(ID[:8]) == "~d:0001020304050607"
    assert newest_key("VMState") == "~n:VMState"
    assert newest_key("shop.prices:of é") == "~n:shop.prices%3Aof%20é"
    assert len(newest_key("x" * 400)) == 240
    for key in (dictionary_key(ID[:8]), newest_key("VMState"), newest_key("")):
        assert is_dictionary_key(key)
    for name in ("", "~d", "~n", "~d:00"):
        assert not is_dictionary_key(stored_text_key(name, "x"))


def test_a_value_depends_on_the_same_names_in_the_same_order() -> None:
    """Payloads carry the ids without the names, so the order is a part of their format."""
    assert dependencies("vm:vm-1", "VMState", ["node:n-7"]) == (
        "n", "g", "m:VMState", "p:vm", "k:vm:vm-1", "t:node:n-7",
    )  # fmt: skip
    assert (NAMESPACE, RULES, WATCHED) == ("n", "g", "o")


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        (Rule(glob="v*1"), b'{"g": "v*1", "after": "", "at": 0}'),
        (
            Rule(all_tags=("a", "b")).following(ID, 1.6),
            b'{"t": ["a", "b"], "after": "%s", "at": 2}' % HEX.encode(),
        ),
    ],
)
def test_a_rule_is_written_and_read_as_it_was(rule: Rule, data: bytes) -> None:
    assert rule.encode() == data
    read = Rule.decode(data)
    assert (read.glob, read.all_tags, read.after) == (rule.glob, rule.all_tags, rule.after)


class TestOnAServer:
    commands = Commands("shop")

    def test_keys_have_the_same_names(self) -> None:
        assert self.commands.value_key("VMState:vm:<vm-1>") == "nc:shop:v:VMState:vm:<vm-1>"
        assert self.commands.marker_key("t:node:n-7") == "nc:shop:m:{t:node:n-7}"
        assert self.commands.signal_key("t:node:n-7", ID) == f"nc:shop:s:{HEX}:{{t:node:n-7}}"
        assert self.commands.lease_keys("k", ID, Ending.STORED) == ("nc:shop:l:{k}", f"nc:shop:s:l{HEX}:{{k}}")
        assert self.commands.lease_keys("k", ID, Ending.IN_VAIN) == ("nc:shop:l:{k}", f"nc:shop:s:x{HEX}:{{k}}")
        assert Commands("a:b").value_key("k") == "nc:a%3Ab:v:k"

    def test_signals_are_read_as_they_were(self) -> None:
        assert self.commands.parse_signal(f"nc:shop:s:{HEX}:{{t:node:n-7}}".encode()) == ("t:node:n-7", ID)
        assert self.commands.parse_signal(f"nc:shop:s:l{HEX}:{{k}}".encode()) == ("l:k", ID)
        assert self.commands.parse_signal(f"nc:shop:s:x{HEX}:{{k}}".encode()) == ("x:k", ID)

    @pytest.mark.parametrize(
        "key",
        ["nc:other:s:00:{n}", "nc:shop:s:00", "nc:shop:s:00:n}", "nc:shop:s:00:{n", "nc:shop:s:0g:{n}", "nc:shop:s:"],
    )
    def test_other_keys_are_no_signals(self, key: str) -> None:
        assert self.commands.parse_signal(key.encode()) is None

    def test_the_log_of_rules_and_the_invitation_to_publish_stand_where_they_stood(self) -> None:
        (batch,) = self.commands.plan(ReadRules())
        assert "nc:shop:r:{g}" in str(batch)
        assert self.commands._publishers == "nc:shop:o:{o}"


def test_figures_travel_between_processes_as_they_did() -> None:
    snapshot = Snapshot("host:1:2", 1_800_000_000.0)
    snapshot.add("hits", 3.0, "memory", "VMState")
    snapshot.add("processes", 1.0)
    snapshot.facts = {"namespace": "shop"}
    plain = json.loads(zlib.decompress(snapshot.encode()))
    assert plain == {
        "v": 1,
        "process": "host:1:2",
        "at": 1_800_000_000.0,
        "bounds": 15,
        "values": {"hits": [["memory", "VMState", 3.0]], "processes": [[1.0]]},
        "histograms": {},
        "facts": {"namespace": "shop"},
    }
    assert Snapshot.decode(snapshot.encode()) == snapshot


class TestOnADisk:
    def test_the_tables_have_the_same_columns(self, tmp_path: Path) -> None:
        tier = DiskTier(tmp_path / "d", namespace="shop", clock=ManualClock())
        tier.perform(Store([Item("VMState:vm:<vm-1>", b"payload", 60.0)]))
        tier.perform(Renew([("n", ID)], 60.0, [(ID, Rule(glob="v*1").encode())]))
        tier.close()
        connection = sqlite3.connect(tmp_path / "d" / "cache.db")
        try:
            assert connection.execute("SELECT key, raw, value FROM Cache").fetchall() == [
                ("4:shop:VMState:vm:<vm-1>", 1, b"payload")
            ]
            assert connection.execute("SELECT dep, id, expires FROM Marker ORDER BY dep").fetchall() == [
                ("4:shop:g", ID, 1_800_000_060.0),
                ("4:shop:n", ID, 1_800_000_060.0),
            ]
            assert connection.execute("SELECT namespace, id, rule FROM Rule").fetchall() == [
                ("shop", ID, b'{"g": "v*1", "after": "", "at": 0}')
            ]
            assert connection.execute("SELECT dep, id FROM Change WHERE dep != '' ORDER BY dep").fetchall() == [
                ("4:shop:g", ID),
                ("4:shop:n", ID),
            ]
            assert connection.execute("SELECT dep, holder, until FROM Hold").fetchall() == []
        finally:
            connection.close()

    def test_a_backup_of_version_2_is_restored(self, tmp_path: Path) -> None:
        tier = DiskTier(tmp_path / "d", namespace="golden", clock=ManualClock())
        try:
            with BACKUP.open("rb") as file:
                restored = tier.restore(Records(file, BACKUP.name), lambda _key, _payload: CREATED + 60.0, markers=True)
            assert (restored.stored, restored.expired, restored.unreadable) == (2, 0, 0)
            found = tier.perform(Fetch(["a", "größe"], ["n", "g"]))
            assert found.payloads == [b"payload a", bytes(range(256))]
            assert found.ids == [ID, ID]
            ((_, rule),) = tier.perform(ReadRules())
            assert rule == b'{"g": "v*1", "after": "", "at": 0}'
        finally:
            tier.close()

    def test_a_backup_is_written_in_the_same_bytes(self, tmp_path: Path) -> None:
        write_backup(tmp_path / "directory", tmp_path / "backup")
        assert (tmp_path / "backup").read_bytes() == BACKUP.read_bytes()


def write_backup(directory: Path, path: Path) -> None:
    tier = DiskTier(directory, namespace="golden", clock=ManualClock())
    try:
        tier.perform(Store([Item("a", b"payload a", 60.0), Item("größe", bytes(range(256)), 60.0)]))
        tier.perform(Renew([("n", ID)], 3600.0, [(ID, Rule(glob="v*1").encode())]))
        tier.perform(Capture(["n"], 3600.0))
        tier.back_up(path, markers=True)
    finally:
        tier.close()


if __name__ == "__main__":
    # Writes the golden backup where there is none; it is never written anew.
    import tempfile

    if not BACKUP.exists():
        with tempfile.TemporaryDirectory() as scratch:
            write_backup(Path(scratch) / "d", BACKUP)
