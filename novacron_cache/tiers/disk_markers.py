"""What the disk tier knows of dependencies: their markers, who holds them, the rules, and what changed of late.

A dependency that is held has no marker row, and nothing gives it one: so a read need not look at the holds at all, and
a hold that runs out leaves a marker that is missing, which matches nothing.

Whatever takes an id away writes a row to the log of changes *in the same transaction*. Other processes read the log
from where they were (see `link.shared`), so one that finds nothing new has missed nothing, whenever a writer was
killed. The log is short. A reader comes back with the row that it read last; where that one is gone, because the log
was trimmed or the database is another one, it cannot know what it missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from ..effects import Capture, Hold, Release, Renew
from ..markers import MAX_RULES, RULES, is_id, new_id
from .disk_database import Damaged, Database

__all__ = ["BATCH", "MAX_CHANGES", "Markers", "Place", "batches", "slots"]

Place: TypeAlias = tuple[int, bytes]
"""A row of the log of changes: its number and its id."""

BATCH: Final = 256
"""How many names one statement takes, and how many rows one transaction writes."""

MAX_CHANGES: Final = 4096
"""How many changes the log keeps, at least; who has not read for so many revalidates everything."""

TRIM_EVERY: Final = 1024
"""After how many changes the log is trimmed."""

_IDS = "SELECT dep, id, expires FROM Marker WHERE dep IN (%s) AND expires > ?"
_HELD = "SELECT dep FROM Hold WHERE dep IN (%s) AND until > ?"
_ANY_HOLD = "SELECT 1 FROM Hold LIMIT 1"
_MARK = (
    "INSERT INTO Marker (dep, id, expires) VALUES (?, ?, ?)"
    " ON CONFLICT (dep) DO UPDATE SET id = excluded.id, expires = max(expires, excluded.expires)"
)
_UNMARK = "DELETE FROM Marker WHERE dep = ?"
_EXTEND = "UPDATE Marker SET expires = ? WHERE dep = ? AND expires > ? AND expires < ?"
_FORGET = ("DELETE FROM Marker WHERE expires <= ?", "DELETE FROM Hold WHERE until <= ?")
_HOLDS = "SELECT 1 FROM Hold WHERE dep = ? AND holder = ? AND until > ?"
_HOLD = (
    "INSERT INTO Hold (dep, holder, until) VALUES (?, ?, ?)"
    " ON CONFLICT (dep, holder) DO UPDATE SET until = max(until, excluded.until)"
)
_END_HOLD = "DELETE FROM Hold WHERE dep = ? AND (holder = ? OR until <= ?)"
_ADD_RULE = "INSERT INTO Rule (namespace, id, rule) VALUES (?, ?, ?)"
_DROP_RULES = (
    "DELETE FROM Rule WHERE namespace = ? AND position NOT IN"
    " (SELECT position FROM Rule WHERE namespace = ? ORDER BY position DESC LIMIT ?)"
)
_RULES = "SELECT id, rule FROM Rule WHERE namespace = ? ORDER BY position DESC LIMIT ?"
# Numbers go up by one, without AUTOINCREMENT and its page of its own, because the newest row is never removed.
_CHANGE = "INSERT INTO Change (dep, id) VALUES (?, ?)"
_TRIM = "DELETE FROM Change WHERE seq <= ?"
_NEWEST = "SELECT seq, id FROM Change ORDER BY seq DESC LIMIT 1"
_SINCE = "SELECT seq, dep, id FROM Change WHERE seq >= ? ORDER BY seq"


def batches(prefix: str, names: Sequence[str]) -> list[list[str]]:
    """Return prefixed names in lists whose lengths are powers of two, so that few statements have to be parsed."""
    found = []
    unique = list(dict.fromkeys(names))
    for start in range(0, len(unique), BATCH):
        batch = [prefix + name for name in unique[start : start + BATCH]]
        found.append(batch + batch[-1:] * ((1 << (len(batch) - 1).bit_length()) - len(batch)))
    return found


def slots(names: Sequence[str]) -> str:
    """Return the placeholders for so many names."""
    return ",".join("?" * len(names))


class Markers:
    """The dependencies of one namespace in whatever database is passed in.

    Args:
        namespace: which.
        prefix: what the names of its dependencies begin with in the tables.
    """

    def __init__(self, namespace: str, prefix: str) -> None:
        self._namespace = namespace
        self._prefix = prefix

    # -- ids ------------------------------------------------------------------------------------------------------

    def ids(self, database: Database, deps: Sequence[str], now: float) -> dict[str, tuple[bytes, float]]:
        """Return (id, expiry) of those dependencies that have a marker."""
        cut = len(self._prefix)
        return {
            dep[cut:]: (found, expires)
            for names in batches(self._prefix, deps)
            for dep, found, expires in database.execute(_IDS % slots(names), (*names, now))
            if is_id(found) and type(expires) is float
        }

    def capture(self, database: Database, operation: Capture, now: float) -> list[bytes | None]:
        """Carry out `effects.Capture`; it writes only for a new id, or a marker that would not live long enough."""
        deps, until = operation.deps, now + operation.life
        ids = self.ids(database, deps, now)
        held = self._held(database, [dep for dep in deps if dep not in ids], now)
        if operation.renew or any(dep not in held and (dep not in ids or ids[dep][1] < until) for dep in deps):
            with database.transact():
                self._mark(database, operation.renew, until, now)
                self._changed(database, operation.renew)
                ids = self.ids(database, deps, now)
                short = dict.fromkeys(dep for dep in deps if dep not in ids or ids[dep][1] < until)
                # Twice as long as asked for, so that not every capture has to write.
                expires = until + operation.life
                given = [(dep, ids[dep][0] if dep in ids else new_id()) for dep in short]
                ids |= {dep: (new, expires) for dep, new in self._mark(database, given, expires, now)}
        return [ids[dep][0] if dep in ids else None for dep in deps]

    def extend(self, database: Database, deps: Sequence[str], expires: float, now: float) -> None:
        """Let markers live longer, within the caller's transaction."""
        for dep in deps:
            database.execute(_EXTEND, (expires, self._prefix + dep, now, expires))

    def renew(self, database: Database, operation: Renew, now: float) -> None:
        """Carry out `effects.Renew` in one transaction."""
        markers, expires = list(operation.markers), now + operation.life
        if operation.rules:
            markers.append((RULES, operation.rules[-1][0]))
        with database.transact():
            for rule_id, rule in operation.rules:
                database.execute(_ADD_RULE, (self._namespace, rule_id, rule))
            if operation.rules:
                database.execute(_DROP_RULES, (self._namespace, self._namespace, MAX_RULES))
            self._mark(database, markers, expires, now)
            self._changed(database, markers)

    def hold(self, database: Database, operation: Hold, now: float) -> list[bool]:
        """Carry out `effects.Hold` in one transaction."""
        holder, until = operation.holder, now + operation.seconds
        held: dict[str, bool] = {}
        with database.transact():
            for dep in dict.fromkeys(operation.deps):
                name = self._prefix + dep
                held[dep] = database.execute(_HOLDS, (name, holder, now)).fetchone() is not None
                database.execute(_HOLD, (name, holder, until))
                database.execute(_UNMARK, (name,))
            self._changed(database, [(dep, holder) for dep, before in held.items() if not before])
        return [held[dep] for dep in operation.deps]

    def release(self, database: Database, operation: Release, now: float) -> None:
        """Carry out `effects.Release` in one transaction."""
        with database.transact():
            for dep, _ in operation.markers:
                database.execute(_END_HOLD, (self._prefix + dep, operation.holder, now))
            self._mark(database, operation.markers, now + operation.life, now)
            self._changed(database, operation.markers)

    def forget(self, database: Database, now: float) -> None:
        """Remove markers and holds whose time is over."""
        for statement in _FORGET:
            database.execute(statement, (now,))

    def rules(self, database: Database) -> list[tuple[bytes, bytes]]:
        """Return the rule log, newest first."""
        rows = database.execute(_RULES, (self._namespace, MAX_RULES)).fetchall()
        return [(rule_id, rule) for rule_id, rule in rows if is_id(rule_id) and type(rule) is bytes]

    def _held(self, database: Database, deps: Sequence[str], now: float) -> set[str]:
        cut = len(self._prefix)
        return {
            dep[cut:]
            for names in batches(self._prefix, deps)
            for (dep,) in database.execute(_HELD % slots(names), (*names, now))
        }

    def _mark(
        self, database: Database, markers: Sequence[tuple[str, bytes]], expires: float, now: float
    ) -> Sequence[tuple[str, bytes]]:
        """Give dependencies their ids, in the caller's transaction; return those that nobody holds, which have them."""
        if markers and database.execute(_ANY_HOLD).fetchone() is not None:
            held = self._held(database, [dep for dep, _ in markers], now)
            markers = [(dep, new) for dep, new in markers if dep not in held]
        for dep, new in markers:
            database.execute(_MARK, (self._prefix + dep, new, expires))
        return markers

    # -- the log of changes ---------------------------------------------------------------------------------------

    def newest(self, database: Database) -> Place:
        """Return the newest row of the log, from which on `changes` tells what happens.

        Raises:
            Damaged: there is none that could be ours.
        """
        row = database.execute(_NEWEST).fetchone()
        if row is None or type(row[1]) is not bytes:
            raise Damaged("the log of changes has no beginning")
        return row[0], row[1]

    def changes(self, database: Database, since: Place) -> tuple[Place, list[tuple[str, bytes]]] | None:
        """Return the newest row of the log and the (dependency, new id) pairs that came after another one.

        Returns:
            None where that row is not there any more: whatever came after it may have gone with it.
        """
        rows = database.execute(_SINCE, (since[0],)).fetchall()
        if not rows or (rows[0][0], rows[0][2]) != since:
            return None
        found, cut = [], len(self._prefix)
        for _, dep, marker_id in rows[1:]:
            if type(dep) is not str or type(marker_id) is not bytes:
                return None
            if dep.startswith(self._prefix):
                found.append((dep[cut:], marker_id))
        return (rows[-1][0], rows[-1][2]), found

    def _changed(self, database: Database, markers: Sequence[tuple[str, bytes]]) -> None:
        """Write to the log what got a new id, or lost its own, in the caller's transaction."""
        last = 0
        for dep, marker_id in markers:
            last = database.execute(_CHANGE, (self._prefix + dep, marker_id)).lastrowid or 0
        database.changed(last)
        if last % TRIM_EVERY < len(markers):
            database.execute(_TRIM, (last - MAX_CHANGES,))
