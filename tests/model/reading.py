"""What a call that reads does, step by step: from process memory to the loader, and back into memory."""

from __future__ import annotations

from typing import Any

from model.authority import Steps, of_each
from model.environment import Environment
from model.world import LOST, UNREAD, G, Held, K, L, Payload, Run, T, Unsent, World


class Reading(Environment):
    """The calls that read."""

    def _to(self, w: World, c: int, **changes: Any) -> None:
        run = w.runs[c]
        if run is not None:
            w.put("runs", c, run._replace(**changes))

    def _finish(self, w: World, c: int) -> None:
        w.put("runs", c, None)
        w.put("at", c, w.at[c] + 1)
        self.tidy(w)

    # -- reading ------------------------------------------------------------------------------------------------

    def floor(self, w: World, p: int) -> int:
        """Return the oldest version that a read may return which begins now."""
        return max(w.own[p], w.heard[p], w.finished[self.v.bound])

    def blocked(self, w: World, p: int, deps: tuple[int, ...]) -> bool:
        """Return whether a pending invalidation keeps this process from the shared tiers."""
        return self.v.reads_around_pending and any(one.dep in deps and one.hits for one in w.pending[p])

    def _token(self, w: World, p: int, run: Run) -> Run:
        return run._replace(cut=self.v.linked and w.link[p][0] == LOST)

    def _begin_read(self, w: World, c: int, p: int) -> None:
        old = w.runs[c]
        run = Run("fetch", floor=old.floor if old is not None else self.floor(w, p))
        held = self.fresh(w, p)
        if held is not None:
            self.check(w, run, held.version, "from memory")
            return self._finish(w, c)
        leader = w.flight[p]
        flight = w.runs[leader] if leader >= 0 else None
        if flight is not None and not (self.v.asks_history_before_joining and flight.hit_known):
            suspect = flight.hit or flight.age >= self.v.bound
            return w.put("runs", c, Run("joined", floor=run.floor, leader=leader, suspect=suspect))
        w.put("flight", p, c)
        if self.blocked(w, p, self.known):
            run = run._replace(step="load")
        return w.put("runs", c, self._token(w, p, run))

    def _begin_refresh(self, w: World, c: int, p: int) -> None:
        run = Run("load" if self.blocked(w, p, self.known) else "capture", floor=self.floor(w, p))
        expects = L in self.deps and w.memory[p] is not None
        run = run._replace(ids=UNREAD if run.step == "capture" else None, expects=expects)
        w.put("runs", c, self._token(w, p, run))

    def _fetch(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            # Late tags are asked about when the value in process memory has them.
            expects = w.memory[p] is not None and L in self.deps
            asked = self.deps if expects else self.known
            ids = of_each(lambda dep: w.marks[dep] if dep in asked else 0)
            step = "fetch_rules" if G in self.deps else "judge"
            if L in self.deps and not expects and (w.near is not None or (self.v.disk == p and w.far is not None)):
                step, expects = "fetch_late", True
            # What is pending must have been looked up before the ids: delivered in between, it would be in neither.
            pending = self.blocked(w, p, self.deps)
            self._to(w, c, ids=ids, got=w.near, age=0, suspect=pending, expects=expects, step=step)

        def down(w: World) -> None:
            self._to(w, c, ids=None, step="load")

        return self.ask(w, "fetches payload and ids", None, ok, down)

    def _fetch_rules(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            self._to(w, c, log=w.log, step="judge")

        return self.ask(w, "reads the rule log", None, ok, lambda w: self._to(w, c, step="judge"))

    def _fetch_late(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """The payload names a tag that the request does not: a second trip for its id."""
        ids = run.ids or UNREAD

        def ok(w: World) -> None:
            self._to(w, c, ids=(ids[K], ids[T], w.marks[L], ids[G]), step="judge")

        return self.ask(w, "fetches the late tag's id", None, ok, lambda w: self._to(w, c, step="judge"))

    def _judge(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Ids are known: process memory first, then the authority's payload, then the disk's."""

        def act(w: World) -> None:
            ids = run.ids or UNREAD
            held = w.memory[p]
            if held is not None and self.valid(held.ids, ids, run.log):
                self._keep(w, c, p, held.version, held.ids)
                return self._land(w, c, p, held.version, "memory, asked again")
            if run.got is not None and self._usable(w, p, run.got, run):
                if not run.hit:
                    self._keep(w, c, p, run.got.version, run.got.ids)
                    return self._land(w, c, p, run.got.version, "from the authority")
            elif self.v.disk == p and w.far is not None and self._usable(w, p, w.far, run, disk=True):
                return self._to(w, c, got=w.far, step="promote")
            missing = any(not ids[dep] for dep in self._foreseen(run))
            step = "capture" if missing and self.v.ids_before_load else "load"
            return self._to(w, c, got=None, log=(), step=step)

        return [("judges", act)]

    def _foreseen(self, run: Run) -> tuple[int, ...]:
        return self.deps if run.expects else self.known

    def _usable(self, w: World, p: int, payload: Payload, run: Run, *, disk: bool = False) -> bool:
        if disk and not self.v.judges_disk:
            return True
        # What the payload depends on is known only now: a late tag may be pending.
        late = {"before the ids": run.suspect, "when judging": self.blocked(w, p, self.deps), "never": False}
        if L in self.deps and late[self.v.asks_late_pending]:
            return False
        return self.valid(payload.ids, run.ids or UNREAD, run.log)

    def _promote(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        got = run.got
        if got is None:
            raise AssertionError("promotes nothing")

        def then(w: World) -> None:
            if run.hit:
                return self._to(w, c, got=None, log=(), step="load")
            self._keep(w, c, p, got.version, got.ids)
            return self._land(w, c, p, got.version, "from the disk")

        return self.ask(w, "moves the disk's payload nearer", ("store", got), then, then)

    # -- loading ------------------------------------------------------------------------------------------------

    def _capture(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        after = "load" if self.v.ids_before_load else self._after_load(run, captured=True)

        def ok(w: World) -> None:
            had = run.ids or UNREAD
            ids = of_each(lambda dep: (had[dep] or w.marks[dep]) if dep in self._foreseen(run) else 0)
            got = run.got._replace(ids=ids) if run.got is not None else None
            self._to(w, c, ids=ids, got=got, step=after)

        def down(w: World) -> None:
            self._to(w, c, ids=None, step="load" if self.v.ids_before_load else "admit")

        return self.ask(w, "captures ids", ("seed", self._foreseen(run)), ok, down)

    def _load(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def act(w: World) -> None:
            ids = run.ids
            step = self._after_load(run, captured=self.v.ids_before_load)
            if not self.v.ids_before_load and ids is not None:
                ids = UNREAD
            self._to(w, c, ids=ids, got=Payload(w.db, ids or UNREAD), age=0, step=step)

        return [("loads from the database", act)]

    def _after_load(self, run: Run, *, captured: bool) -> str:
        if run.ids is None:
            return "admit"
        if not captured:
            return "capture"
        if L in self.deps and not run.ids[L]:
            return "capture_late" if self.v.linked and not run.cut else "admit"
        return "far"

    def _capture_late(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            had = run.ids or UNREAD
            ids = (had[K], had[T], w.marks[L], had[G])
            got = run.got._replace(ids=ids) if run.got is not None else None
            self._to(w, c, ids=ids, got=got, step="barrier" if self.v.has_barrier else "far")

        def down(w: World) -> None:
            self._to(w, c, ids=None, step="admit")

        return self.ask(w, "captures the late tag's id", ("seed", (L,)), ok, down)

    def _barrier(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Wait for the answer to a question on the link, behind all signals; it may never come."""

        def act(w: World) -> None:
            hit = run.hit and self.v.asks_history_after_barrier
            cut = run.cut and self.v.asks_link_after_barrier
            self._to(w, c, **({"ids": None, "step": "admit"} if hit or cut else {"step": "far"}))

        state = w.link[p][0]
        if state == LOST or (state == "up" and not w.queue[p]):
            return [("passes the barrier" if state == "up" else "has lost its link", act)]
        return []

    def _far(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        if self.v.disk != p:
            return self._store(w, c, p, run, call)

        def act(w: World) -> None:
            w.far = run.got
            self._to(w, c, step="store")

        return [("stores on its disk", act)]

    def _store(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            self._to(w, c, step="admit")

        if call == "set" and self.v.set_renews and not self.v.set_waits:
            what = Unsent(K, self.call_id(c, w.at[c]), run.version)

            def arrived(w: World) -> None:
                self.arrived(w, p, (what,), finished=True)
                ok(w)

            def down(w: World) -> None:
                self._to(w, c, ids=None, step="admit")

            return self.ask(
                w, "renews the key and stores", ("renew and store", what, run.got), arrived, down, renews=True
            )
        return self.ask(w, "stores", ("store", run.got), ok, ok)

    def _admit(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        got = run.got
        if got is None:
            raise AssertionError("nothing to admit")

        def act(w: World) -> None:
            if not run.hit or not self.v.keeps_history:
                complete = run.ids is not None and all(got.ids[dep] for dep in self.deps)
                self._keep(w, c, p, got.version, got.ids if complete else None)
            if call == "set":
                w.put("own", p, max(w.own[p], run.version))
                return self._finish(w, c)
            return self._land(w, c, p, got.version, "loaded")

        return [("keeps the value in memory", act)]

    def _keep(self, w: World, c: int, p: int, version: int, ids: Any) -> None:
        run = w.runs[c]
        if run is None:
            return
        linked = self.v.linked and ids is not None and (not run.cut or not self.v.loss_voids)
        age = run.age if self.v.ages_from_ids and not linked else 0
        w.put("memory", p, Held(version, ids, age, linked))

    def _land(self, w: World, c: int, p: int, version: int, where: str) -> None:
        """Return a value, and give it to whoever joined."""
        if w.flight[p] == c:
            w.put("flight", p, -1)
        for client, run in enumerate(w.runs):
            if run is None or (client != c and not (run.step == "joined" and run.leader == c)):
                continue
            if client != c and run.suspect and self.v.asks_again_after_joining:
                w.put("runs", client, Run("begin", floor=run.floor))
                continue
            self.check(w, run, version, where if client == c else "from a flight")
            self._finish(w, client)

    # -- touching -----------------------------------------------------------------------------------------------

    def _begin_touch(self, w: World, c: int, p: int) -> None:
        held = self.fresh(w, p)
        if held is None:
            return self._finish(w, c)
        run = Run("touch_store", ids=held.ids, got=Payload(held.version, held.ids or UNREAD))
        run = run._replace(age=held.age if self.v.touch_keeps_age else 0, cut=not held.linked)
        return w.put("runs", c, run)

    def _touch_store(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def then(w: World) -> None:
            if not run.hit:
                held = Held(run.got.version if run.got else 0, run.ids, run.age, self.v.linked and not run.cut)
                w.put("memory", p, held)
            self._finish(w, c)

        if run.ids is None:
            return [("keeps it longer", then)]
        return self.ask(w, "stores it with a longer life", ("store", run.got), then, then)
