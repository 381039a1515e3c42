"""What a call that writes does, step by step: invalidating, holding and releasing, setting."""

from __future__ import annotations

from typing import Any

from model.authority import INVALIDATES, Steps, describe, of_each
from model.reading import Reading
from model.world import UNREAD, G, K, Payload, Run, Unsent, World


class Writing(Reading):
    """The calls that write."""

    # -- holding ------------------------------------------------------------------------------------------------

    def _hold(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Take the id away before the database is written to, so that it is missing should the writer die."""
        dep, holder = INVALIDATES[call], self.call_id(c, w.at[c])

        def then(w: World) -> None:
            self._to(w, c, step="write")

        return self.ask(w, p, "holds the marker", ("hold", dep, holder), then, then, dep=dep, renews=True)

    def _write(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        held = (INVALIDATES[call], self.call_id(c, w.at[c]))

        def write(w: World) -> None:
            w.db += 1
            w.put("runs", c, Run("pending" if self.v.pending_first else "forget", version=w.db))

        steps: Steps = [("writes to the database", write)]
        if held not in w.holds and "outage" not in self.v.faults:
            steps += self._hold(w, c, p, run, call)
        return steps

    # -- invalidating -------------------------------------------------------------------------------------------

    def _what(self, w: World, c: int, run: Run, call: str) -> Unsent:
        return Unsent(INVALIDATES[call], self.call_id(c, w.at[c]), run.version, call != "other rule")

    def _pending(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def act(w: World) -> None:
            kept = tuple(one for one in w.pending[p] if one.dep != what.dep or what.dep == G)
            w.put("pending", p, (*kept, what))
            self._to(w, c, step="forget" if self.v.pending_first else self._first(call))

        return [("notes it as pending", act)]

    def _first(self, call: str) -> str:
        return "others" if call == "set" else "head" if INVALIDATES[call] == G else "send"

    def _forget(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def act(w: World) -> None:
            if call != "other rule":
                self.forget(w, p, INVALIDATES[call])
            self._to(w, c, step=self._first(call) if self.v.pending_first else "pending")
            if call == "set":
                fresh = w.runs[c]
                if fresh is not None:
                    w.put("runs", c, self._token(w, p, fresh._replace(hit=False, hit_known=False)))

        return [("forgets", act)]

    def _returned(self, w: World, c: int, p: int, run: Run, call: str) -> None:
        if call != "other rule":
            w.put("own", p, max(w.own[p], run.version))
        self._finish(w, c)

    def _done(self, w: World, c: int, p: int, run: Run, call: str) -> None:
        self.arrived(w, p, (self._what(w, c, run, call),), finished=True)
        self._returned(w, c, p, run, call)

    def _head(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            self._to(w, c, ids=(0, 0, 0, w.marks[G]), step="send")

        return self.ask(
            w, p, "captures the log's head", ("seed", (G,)), ok, lambda w: self._returned(w, c, p, run, call)
        )

    def _send(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def signal_first(w: World) -> None:
            self.signal(w, what)
            self._to(w, c, step="renew")

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        if not self.v.renews_in_one:
            command: tuple[Any, ...] = ("replace", what)
            return self.ask(w, p, f"replaces {describe(what)}", command, lambda w: self._to(w, c, step="created"), down)
        if self.v.signals == "after it":
            # The renewal is acknowledged only when the signal is out too.
            command = ("renew", what, (run.ids or UNREAD)[G])
            return self.ask(w, p, f"renews {describe(what)}", command, lambda w: self._to(w, c, step="signal"), down)
        if self.v.signals == "before it":
            return [(f"signals {describe(what)}", signal_first)]
        return self._renew(w, c, p, run, call)

    def _renew(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def ok(w: World) -> None:
            self._done(w, c, p, run, call)

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        def told(w: World) -> None:
            self._to(w, c, by=w.replids[self.v.shards[what.dep]], step="acknowledged")

        command: tuple[Any, ...] = ("renew", what, (run.ids or UNREAD)[G])
        if call == "hold":
            command = ("release", what, what.id)
        # Where the master may be replaced meanwhile, it matters when its acknowledgement comes.
        then = told if "promote" in self.v.faults else ok
        return self.ask(w, p, f"renews {describe(what)}", command, then, down, dep=what.dep, renews=True)

    def _acknowledged(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)
        shard = self.v.shards[what.dep]

        def act(w: World) -> None:
            if w.talked[p][shard] == run.by or not self.v.acknowledged_by_current:
                self.arrived(w, p, (what,), finished=True, lost=w.replids[shard] != run.by)
            self._returned(w, c, p, run, call)

        return [("has its acknowledgement", act)]

    def _signal(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def act(w: World) -> None:
            self.signal(w, what)
            self._done(w, c, p, run, call)

        return [(f"signals {describe(what)}", act)]

    def _created(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        what = self._what(w, c, run, call)

        def ok(w: World) -> None:
            self._done(w, c, p, run, call)

        def down(w: World) -> None:
            self._returned(w, c, p, run, call)

        return self.ask(w, p, f"creates {describe(what)} if it is missing", ("create", what), ok, down)

    def _others(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """The ids of a given value: those of others as they are, the key's own new."""
        what = self._what(w, c, run, call)
        others = tuple(dep for dep in self.deps if dep != K or not self.v.set_renews)
        renews = self.v.set_renews and self.v.set_waits

        def ok(w: World) -> None:
            ids = of_each(lambda dep: w.marks[dep] if dep in others else what.id if dep == K else 0)
            if renews or not self.v.set_renews:
                self.arrived(w, p, (what,), finished=True)
            self._to(w, c, ids=ids, got=Payload(run.version, ids), step="far", age=0)

        def down(w: World) -> None:
            self._to(w, c, ids=None, got=Payload(run.version, UNREAD), step="admit")

        command = ("renew and seed", what, others) if renews else ("seed", others)
        label = "renews the key and captures the other ids" if renews else "captures the other ids"
        return self.ask(w, p, label, command, ok, down, renews=renews)
