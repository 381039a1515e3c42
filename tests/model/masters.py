"""Which master a process talks to, what it makes of a new one, and how commands reach it.

A master's history has a name, which changes when the master begins anew (perhaps with older data) or a replica takes
its place. Beside the namespace's marker the names are kept that its data is known to belong to. A connection first asks
for the name; one that is not known there makes the marker new, so that everything stored before is invalid. Two masters
may take themselves for the master for a while: whoever meets another history than before invalidates again what it had
invalidated before, since only the one that is gone may know of it.
"""

from __future__ import annotations

from typing import Any

from model.authority import Act, Authority, Steps, of_each
from model.world import LOST, G, K, N, Run, Unsent, World

ASKING = frozenset({"fetch", "fetch_rules", "fetch_late"})
"""Steps of a read that has looked at what is pending, and does not have all ids yet."""


class Masters(Authority):
    """Masters, the connections to them, and the commands that these carry."""

    # -- commands -----------------------------------------------------------------------------------------------

    def ask(
        self,
        w: World,
        p: int,
        label: str,
        command: tuple[Any, ...] | None,
        ok: Act,
        down: Act,
        *,
        client: int = -1,
        dep: int = K,
        renews: bool = False,
    ) -> Steps:
        """Send a command to the authority.

        Args:
            w: the world before.
            p: the process that sends it.
            label: what is asked, for the trace.
            command: what changes there, or None.
            ok: what its answer does.
            down: what the lack of an answer does.
            client: who asks, or -1.
            dep: a dependency of the shard that is asked.
            renews: whether the command replaces an id, so that it matters what became of it when there is no answer.
        """

        shard = self.v.shards[dep]
        if not self.verified(w, p, shard):
            return self._connect(w, p, shard, down, client)

        def answered(w: World) -> None:
            self._turn(w, p, shard)
            if command is not None:
                self.carry_out(w, command)
            ok(w)
            self._turn_back(w)

        def refused(w: World) -> None:
            w.use("outage")
            down(w)

        def unanswered(w: World) -> None:
            self._turn(w, p, shard)
            if command is not None:
                self.carry_out(w, command)
            self._turn_back(w)
            refused(w)

        def delayed(w: World) -> None:
            w.late = (*w.late, command or ())
            refused(w)

        def slow(w: World) -> None:
            w.late = (*w.late, command or ())
            w.use("slow store")
            down(w)

        steps: Steps = [(label, answered)]
        if w.left("outage"):
            steps.append((f"{label}: the authority does not answer", refused))
            if renews:
                steps.append((f"{label}: carried out, but the answer is lost", unanswered))
                steps.append((f"{label}: given up, and not carried out yet", delayed))
        if command is not None and command[0] == "store" and w.left("slow store"):
            steps.append((f"{label}: given up, and not carried out yet", slow))
        return steps

    def strays(self, w: World, p: int, shard: int) -> bool:
        """Return whether a process talks to a master of a shard that is none any more."""
        return w.side[p] > 0 and w.elsewhere is not None and self.v.promotes in (None, shard)

    def _turn(self, w: World, p: int, shard: int) -> None:
        """Have the world's fields describe the master that a process talks to."""
        if self.strays(w, p, shard) and w.elsewhere is not None:
            w.stored, w.elsewhere, w.here = w.elsewhere, w.stored, 1

    def _turn_back(self, w: World) -> None:
        if w.here and w.elsewhere is not None:
            w.stored, w.elsewhere, w.here = w.elsewhere, w.stored, 0

    def arrived(self, w: World, p: int, items: tuple[Unsent, ...], *, finished: bool, lost: bool = False) -> None:
        """Nothing of this is pending any more; what has also returned to its caller has finished.

        While there are two masters, only what the one has that stays is finished.
        """
        gone = {(one.dep, one.id % 1000) for one in items}
        w.put("pending", p, tuple(one for one in w.pending[p] if (one.dep, one.id) not in gone))
        for one in items:
            if one.hits and not w.here and not lost and (finished or not self.in_progress(w, one)):
                w.finished = (max(w.finished[0], one.version), *w.finished[1:])
            if self.verifies and one.hits:
                w.acked = max(w.acked, one.version)
                self._note(w, p, one._replace(id=one.id % 1000))

    def _note(self, w: World, p: int, what: Unsent) -> None:
        faults = ("promote", "return", "roll back", "empty")
        may_change = w.side[p] or w.talked[p] != w.replids or any(w.left(fault) for fault in faults)
        if may_change and not any(one.dep == what.dep and one.version > what.version for one in w.journal[p]):
            w.put("journal", p, (*(one for one in w.journal[p] if one.dep != what.dep), what))

    # -- histories ----------------------------------------------------------------------------------------------

    def verified(self, w: World, p: int, shard: int) -> bool:
        """Return whether a process has a connection to the master that it would ask."""
        return not self.verifies or self._replid(w, p, shard) == w.talked[p][shard]

    def _replid(self, w: World, p: int, shard: int) -> int:
        self._turn(w, p, shard)
        replid = w.replids[shard]
        self._turn_back(w)
        return replid

    def _connect(self, w: World, p: int, shard: int, down: Act, client: int) -> Steps:
        def refused(w: World) -> None:
            w.use("outage")
            if self.v.refuses_unverified:
                return down(w)
            return self.meet(w, p, shard, client, verifies=False)

        steps: Steps = [(f"meets the master of shard {shard}", lambda w: self.meet(w, p, shard, client))]
        if w.left("outage"):
            steps.append((f"cannot ask about the history of shard {shard}", refused))
        return steps

    def meet(self, w: World, p: int, shard: int, client: int = -1, *, verifies: bool = True) -> None:
        """Open a connection: ask for the master's history, and make the namespace new where it is not known."""
        beside = self.v.shards[N]
        if shard != beside and verifies and not self.verified(w, p, beside):
            self.meet(w, p, beside, client)
        before, now = w.talked[p][shard], self._replid(w, p, shard)
        came = {before} - {0} if self.v.tells_where_from else set()
        self._turn(w, p, beside)
        if verifies and not {now, *came} <= w.trusted:
            w.trusted |= {now, *came}
            if self._clears(now) and (self.v.clears_namespace or shard == beside):
                w.clears += 1
                self.renew(w, Unsent(N, -w.clears, 0, hits=False))
        self._turn_back(w)
        talked = w.talked[p]
        if shard == beside and before and self.v.verifies_all_again:
            talked = (0,) * len(talked)
        w.put("talked", p, (*talked[:shard], now, *talked[shard + 1 :]))
        if before:
            self._replay(w, p)
        if before or self.v.first_meeting_counts:
            self._ask_again(w, p, client)

    def _clears(self, replid: int) -> bool:
        return {
            "each new history": True, "restarts": replid % 2 == 0, "promotions": replid % 2 == 1, "never": False,
        }[self.v.clears]  # fmt: skip

    def _replay(self, w: World, p: int) -> None:
        items = w.journal[p]
        w.put("journal", p, ())
        if not self.v.replays or not items:
            return
        if not self.v.replay_is_pending:
            w.put("sending", p, (*(w.sending[p] or ()), *self.fresh_ids(w, p, items)))
            return
        newest = {one.dep: one.version for one in items}
        kept = tuple(one._replace(version=max(one.version, newest.pop(one.dep, 0))) for one in w.pending[p])
        w.put("pending", p, (*kept, *(one for one in items if one.dep in newest)))

    def fresh_ids(self, w: World, p: int, items: tuple[Unsent, ...]) -> tuple[Unsent, ...]:
        """Return items with ids that no attempt before this one has brought."""
        # What an attempt before this one has used up of the budget makes the id another one, and so does the master.
        attempt = 1000 * (1 + w.left("outage")) + 10_000 * max(w.talked[p], default=0)
        return tuple(one._replace(id=one.id + attempt) for one in items)

    def _ask_again(self, w: World, p: int, discoverer: int) -> None:
        for client, run in enumerate(w.runs):
            if run is None or self.process[client] != p or run.step not in ASKING or self.v.asks_again == "nobody":
                continue
            if self.v.asks_again == "whoever is under way" or client == discoverer:
                self.leave_flight(w, client)
                w.put("runs", client, Run("begin", floor=run.floor))

    def leave_flight(self, w: World, client: int) -> None:
        """End a flight before it lands; who has joined it begins again."""
        process = self.process[client]
        if w.flight[process] == client:
            w.put("flight", process, -1)
        for other, run in enumerate(w.runs):
            if run is not None and run.step == "joined" and run.leader == client:
                w.put("runs", other, Run("begin", floor=run.floor))

    # -- masters come and go ------------------------------------------------------------------------------------

    def new_replid(self, w: World, *, promoted: bool = False) -> int:
        """Return the name of a new history."""
        w.generation += 1
        return 2 * w.generation + promoted

    def promote(self, w: World) -> None:
        """A replica becomes the master without the latest writes; the old master goes on, and everybody is with it."""
        w.use("promote")
        w.losses += 1
        w.elsewhere = w.stored
        self.restore(w, self.v.promotes, promoted=True)
        self._strand(w)

    def restore(self, w: World, shard: int | None, *, promoted: bool = False) -> None:
        """A shard, or all, is from now on what a replica had."""
        if w.snapshot is None:
            raise AssertionError("no replica")
        marks, log, near, holds, trusted, _ = w.snapshot
        w.snapshot = None

        def is_there(dep: int) -> bool:
            return shard in (None, self.v.shards[dep])

        current = w.marks
        w.marks = of_each(lambda dep: marks[dep] if is_there(dep) else current[dep])
        w.log, w.near = log if is_there(G) else w.log, near if is_there(K) else w.near
        w.holds = tuple(one for one in w.holds if not is_there(one[0])) + tuple(
            one for one in holds if is_there(one[0])
        )
        w.trusted = trusted if is_there(N) else w.trusted
        w.replids = tuple(
            self.new_replid(w, promoted=promoted) if shard in (None, number) else replid
            for number, replid in enumerate(w.replids)
        )

    def come_back(self, w: World) -> None:
        """The old master, left by everybody, is made the master again, and does not know that it was not."""
        w.use("return")
        w.losses += 1
        if w.elsewhere is not None:
            w.elsewhere, w.stored = w.stored, w.elsewhere
        # It is made new by who comes from the other one: what has finished there is promised when the bound is over.
        w.finished = (w.finished[0],) + (0,) * self.v.bound
        w.heard = (0,) * len(w.heard)
        for client, run in enumerate(w.runs):
            if run is not None:
                w.put("runs", client, run._replace(floor=min(run.floor, w.own[self.process[client]])))
        self._strand(w)

    def _strand(self, w: World) -> None:
        w.late = ()
        w.side = tuple(int(alive and self.concerned(w, p)) for p, alive in enumerate(w.alive))
        w.link_side = w.side

    def concerned(self, w: World, p: int) -> bool:
        """Return whether it matters which master a process finds by itself: it has something to tell, or will be asked.

        Where there is only one master, the first command finds it.
        """
        if w.journal[p]:
            return True
        if "promote" not in self.v.faults:
            return False
        asked = any(process == p and w.at[c] < len(self.calls[c]) for c, process in enumerate(self.process))
        return asked or bool(w.pending[p]) or w.memory[p] is not None

    def may_move(self, w: World, p: int) -> bool:
        """Return whether a process still has to find out that its master is not the master any more."""
        return w.side[p] > 0 and (self.v.data_follows_link or w.link_side[p] > 0)

    def move(self, w: World, p: int, *, all_of_it: bool = False) -> None:
        """A process finds out: its link is lost, and its connections are replaced."""
        if self.v.data_follows_link or all_of_it:
            w.put("side", p, 0)
            if not any(w.side) and not w.left("return"):
                w.elsewhere = None
        if self.v.link_follows_data:
            w.put("link", p, (LOST, 0))
            w.put("link_side", p, 0)
            w.put("queue", p, ())
            if self.v.move_asks_all:
                self.distrust(w, p)
        w.put("heard", p, w.finished[0] if w.left("return") == self.v.faults.get("return", 0) else 0)

    def stray(self, w: World, p: int) -> None:
        """Time passes: within the bound a process finds the master that stays, even if nobody calls it."""
        if self.may_move(w, p) and self.v.notices:
            if w.side[p] < self.v.bound:
                w.put("side", p, w.side[p] + 1)
                return
            self.move(w, p)
        two = "promote" in self.v.faults
        if two and self.concerned(w, p) and w.alive[p] and not w.side[p] and w.talked[p] != w.replids:
            for shard in self.shards:
                if not self.verified(w, p, shard):
                    self.meet(w, p, shard)
