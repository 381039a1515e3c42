"""What a call that reads does, step by step: from process memory to the loader, and back into memory."""

from __future__ import annotations

from typing import Any

from model.authority import Steps, of_each
from model.environment import Environment
from model.world import HOLE, LOST, UNREAD, UP, G, Held, Ids, K, L, Payload, Run, Unsent, World, with_id


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
        run = Run("fetch", floor=old.floor if old is not None else self.floor(w, p), todo=self.shards)
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
        if self.v.knows and w.memory[p] is None and self._knows(w, p) and all(w.known[p][dep] for dep in self.known):
            return w.put("runs", c, run._replace(step="near", todo=()))
        return self._set_off(w, c, p, run)

    # -- what is known under the link ---------------------------------------------------------------------------

    def _knows(self, w: World, p: int) -> bool:
        """Return whether a process may believe the ids that it remembers."""
        return w.link[p][0] in (UP, HOLE) and not w.pending[p]

    def _near(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Ask for the payload alone."""

        def ok(w: World) -> None:
            self._to(w, c, got=w.near, age=0, step="judge_near")

        return self.ask(w, p, "fetches the payload alone", None, ok, lambda w: self._to(w, c, step="load"), client=c)

    def _judge_near(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Known ids can only say yes; else the call begins once more, and asks."""

        def act(w: World) -> None:
            got, known = run.got, w.known[p]
            deps = self.deps if self.v.judges_by_all_known else self.known
            believed = got is not None and all(known[dep] and known[dep] == got.ids[dep] for dep in deps)
            if got is not None and believed and self._knows(w, p) and not run.hit:
                self._keep(w, c, p, got.version, got.ids)
                return self._land(w, c, p, got.version, "from the authority, unasked")
            self.leave_flight(w, c)
            w.put("flight", p, c)
            return self._set_off(w, c, p, Run("fetch", floor=run.floor, todo=self.shards))

        return [("judges by what it knows", act)]

    def _learn(self, w: World, p: int, run: Run) -> None:
        undisturbed = not run.hit and not run.cut and w.link[p][0] in (UP, HOLE)
        if not self.v.knows or run.ids is None or (not undisturbed and self.v.learns_undisturbed):
            return
        if run.clean or not self.v.learns_clean:
            known, read = w.known[p], run.ids
            w.put("known", p, of_each(lambda dep: read[dep] or known[dep]))

    def _set_off(self, w: World, c: int, p: int, run: Run) -> None:
        if self.blocked(w, p, self.known):
            run = run._replace(step="load")
        w.put("runs", c, self._token(w, p, run))

    def _begin_strong(self, w: World, c: int, p: int) -> None:
        """A read that whatever has finished anywhere must be visible to."""
        old = w.runs[c]
        floor = old.floor if old is not None else max(self.floor(w, p), w.finished[0])
        run = Run("fetch", floor=floor, todo=self.shards)
        held = self.fresh(w, p)
        if held is not None and not self.v.strong_asks:
            self.check(w, run, held.version, "from memory")
            return self._finish(w, c)
        leader = w.flight[p]
        if leader >= 0 and not self.v.strong_flies_alone:
            return w.put("runs", c, Run("joined", floor=floor, leader=leader))
        return self._set_off(w, c, p, run)

    def _begin_refresh(self, w: World, c: int, p: int) -> None:
        run = Run("load" if self.blocked(w, p, self.known) else "capture", floor=self.floor(w, p))
        expects = L in self.deps and w.memory[p] is not None
        run = run._replace(ids=UNREAD if run.step == "capture" else None, expects=expects, todo=self._before_load())
        w.put("runs", c, self._token(w, p, run))

    def _fetch(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Ask the shards for payload and ids, in any order."""
        return [step for shard in run.todo for step in self._fetch_from(shard, w, c, p, run)]

    def _fetch_from(self, shard: int, w: World, c: int, p: int, run: Run) -> Steps:
        todo = tuple(one for one in run.todo if one != shard)
        # Late tags are asked about when the value in process memory has them.
        expects = w.memory[p] is not None and L in self.deps
        asked = self.deps if expects else self.known
        first = run.ids is None
        # What is pending must have been looked up before the ids: delivered in between, it would be in neither.
        suspect = self.blocked(w, p, self.deps)
        clean = not w.pending[p] and (first or run.clean)

        def ok(w: World) -> None:
            had = run.ids or UNREAD
            ids = of_each(lambda dep: w.marks[dep] if dep in asked and self.v.shards[dep] == shard else had[dep])
            got = w.near if shard == self.v.shards[K] else run.got
            step, knows = "fetch_rules" if G in self.deps else "judge", expects
            if L in self.deps and not expects and (w.near is not None or (self.v.disk == p and w.far is not None)):
                step, knows = "fetch_late", True
                if self.v.knows and self._knows(w, p) and w.near is not None and w.known[p][L] == w.near.ids[L] != 0:
                    step = "fetch_rules" if G in self.deps else "judge"
            age = 0 if first or self.v.age_from == "the last id" else run.age
            self._to(w, c, ids=ids, got=got, age=age, suspect=suspect or run.suspect, expects=knows, todo=todo)
            if self.v.knows:
                self._to(w, c, clean=clean)
            self._to(w, c, step="fetch" if todo else step)

        def down(w: World) -> None:
            if todo:
                self._to(w, c, todo=todo)
            else:
                self._to(w, c, step="load" if first else "judge")

        label = "fetches payload and ids" if shard == self.v.shards[K] else f"fetches ids from shard {shard}"
        return self.ask(w, p, label, None, ok, down, client=c, dep=self._one_of(shard))

    def _one_of(self, shard: int) -> int:
        return next(dep for dep in self.deps if self.v.shards[dep] == shard)

    def _fetch_rules(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            self._to(w, c, log=w.log, step="judge")

        return self.ask(w, p, "reads the rule log", None, ok, lambda w: self._to(w, c, step="judge"), client=c)

    def _fetch_late(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """The payload names a tag that the request does not: a second trip for its id."""

        def ok(w: World) -> None:
            self._to(w, c, ids=with_id(run.ids, L, w.marks[L]), step="judge")

        return self.ask(w, p, "fetches the late tag's id", None, ok, lambda w: self._to(w, c, step="judge"), client=c)

    def _judge(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        """Ids are known: process memory first, then the authority's payload, then the disk's."""

        def act(w: World) -> None:
            self._learn(w, p, run)
            ids = run.ids or UNREAD
            if self.v.knows and L in self.deps and not ids[L] and self._knows(w, p):
                # Not asked for, because it was known; looked up only now.
                ids = with_id(ids, L, w.known[p][L])
            held = w.memory[p]
            if held is not None and self.valid(held.ids, ids, run.log):
                self._keep(w, c, p, held.version, held.ids)
                return self._land(w, c, p, held.version, "memory, asked again")
            if run.got is not None and self._usable(w, p, run.got, run._replace(ids=ids if run.ids else None)):
                if not run.hit:
                    self._keep(w, c, p, run.got.version, run.got.ids)
                    return self._land(w, c, p, run.got.version, "from the authority")
            elif self.v.disk == p and w.far is not None and self._usable(w, p, w.far, run, disk=True):
                return self._to(w, c, got=w.far, step="promote")
            ids = run.ids or UNREAD
            missing = {self.v.shards[dep] for dep in self._foreseen(run) if not ids[dep]}
            todo = tuple(shard for shard in self._before_load() if shard in missing)
            return self._to(w, c, got=None, log=(), todo=todo, step="capture" if todo else "load")

        return [("judges", act)]

    def _before_load(self) -> tuple[int, ...]:
        """The shards whose ids are captured before the load: all, unless a rule is left out."""
        if not self.v.ids_before_load:
            return ()
        return tuple(shard for shard in self.shards if shard != self.v.captures_after)

    def _after(self) -> tuple[int, ...]:
        return tuple(shard for shard in self.shards if shard not in self._before_load())

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

        return self.ask(w, p, "moves the disk's payload nearer", ("store", got), then, then)

    # -- loading ------------------------------------------------------------------------------------------------

    def _capture(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        return [step for shard in run.todo for step in self._capture_from(shard, w, c, p, run)]

    def _capture_from(self, shard: int, w: World, c: int, p: int, run: Run) -> Steps:
        todo = tuple(one for one in run.todo if one != shard)
        seeded = tuple(dep for dep in self._foreseen(run) if self.v.shards[dep] == shard)

        def ok(w: World) -> None:
            had = run.ids or UNREAD
            ids = of_each(lambda dep: (had[dep] or w.marks[dep]) if dep in seeded else had[dep])
            got = run.got._replace(ids=ids) if run.got is not None else None
            if any(not ids[dep] for dep in seeded):
                # It is held: what is loaded now is for the caller alone.
                return self._to(w, c, ids=None, held=True, step="load" if got is None else "admit")
            if todo:
                return self._to(w, c, ids=ids, got=got, todo=todo)
            return self._to(w, c, ids=ids, got=got, step="load" if got is None else self._after_load(run))

        def down(w: World) -> None:
            self._to(w, c, ids=None, step="load" if run.got is None else "admit")

        return self.ask(w, p, "captures ids", ("seed", seeded), ok, down, dep=self._one_of(shard))

    def _load(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def act(w: World) -> None:
            ids, todo = run.ids, self._after()
            if ids is None:
                return self._to(w, c, got=Payload(w.db, UNREAD), age=0, step="admit")
            before = ids
            ids = of_each(lambda dep: 0 if self.v.shards[dep] in todo else before[dep])
            step = "capture" if todo else self._after_load(run)
            return self._to(w, c, ids=ids, got=Payload(w.db, ids), age=0, todo=todo, step=step)

        return [("loads from the database", act)]

    def _after_load(self, run: Run) -> str:
        if L in self.deps and not (run.ids or UNREAD)[L]:
            return "capture_late" if self.v.linked and not run.cut else "admit"
        return "far"

    def _capture_late(self, w: World, c: int, p: int, run: Run, call: str) -> Steps:
        def ok(w: World) -> None:
            ids = with_id(run.ids, L, w.marks[L])
            got = run.got._replace(ids=ids) if run.got is not None else None
            self._to(w, c, ids=ids, got=got, step="barrier" if self.v.has_barrier else "far")

        def down(w: World) -> None:
            self._to(w, c, ids=None, step="admit")

        return self.ask(w, p, "captures the late tag's id", ("seed", (L,)), ok, down)

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

            command = ("renew and store", what, run.got)
            return self.ask(w, p, "renews the key and stores", command, arrived, down, renews=True)
        return self.ask(w, p, "stores", ("store", run.got), ok, ok)

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

    def _keep(self, w: World, c: int, p: int, version: int, ids: Ids | None) -> None:
        run = w.runs[c]
        if run is None:
            return
        covered = ids is not None or (run.held and not self.v.held_is_not_linked)
        linked = self.v.linked and covered and (not run.cut or not self.v.loss_voids)
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
        return self.ask(w, p, "stores it with a longer life", ("store", run.got), then, then)
