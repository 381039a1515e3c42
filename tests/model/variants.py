"""The first table: which scenario keeps its promises, and which rule of the protocol cannot be left out.

`"ok"` means that no reachable state breaks a promise. `"BUG"` means that one does: the line leaves out one rule, which
is thereby known to be needed. Lines that begin with "limit" leave out nothing; there the promise ends. Masters that
are replaced and several shards have a table of their own in `variants_masters`, holds and strong reads in
`variants_writers`.
"""

from __future__ import annotations

from model.rules import Variant
from model.world import G, K, L, T

KL = (K, L)
KG = (K, G)
PAIR = ((0, ("read", "read")), (1, ("tag", "read")))
BESIDE = ((0, ("read", "read")), (0, ("tag", "read")))
TOLD = ((0, ("read", "read")), (1, ("tag",)))
AGAIN = ((0, ("read", "read", "read")), (1, ("tag",)))
TWICE = ((0, ("read",)), (1, ("tag", "tag")))
TOUCH = ((0, ("touch", "read")), (1, ("tag",)))
SHARED = ((0, ("read",)), (0, ("read",)), (1, ("tag",)))
SET = ((0, ("set", "key", "read")), (1, ("read",)))
LATE = ((0, ("read",)), (1, ("late",)))
LATE_BESIDE = ((0, ("read", "read")), (0, ("late", "read")))
RULES = ((0, ("read", "read")), (1, ("rule",)), (2, ("other rule",)))
TRIMMED = ((0, ("read", "read")), (1, ("rule", "other rule")))

# fmt: off
VARIANTS = [
    # -- ids, history, flights -----------------------------------------------------------------------------------------
    Variant("two processes, one invalidation", "ok", PAIR),
    Variant("one process, reads beside its own invalidation", "ok", BESIDE),
    Variant("a flight beside an invalidation, another process reads", "ok",
            ((0, ("read",)), (0, ("tag", "read")), (1, ("read",)))),
    Variant("invalidations by key and by tag in two processes", "ok",
            ((0, ("read", "read")), (1, ("tag",)), (2, ("key",)))),
    Variant("many calls", "ok", ((0, ("read", "read", "read")), (1, ("tag", "read", "key", "read"))), disk=0),
    Variant("a refresh beside reads and an invalidation", "ok", ((0, ("refresh", "read")), (0, ("tag", "read"))),
            warm=True),
    Variant("a call is cancelled", "ok", ((0, ("read",)), (0, ("tag", "read")), (0, ("read",))),
            deps=(T,), faults={"cancel": 1}),
    Variant("the history is not asked before a value is kept", "BUG", BESIDE, keeps_history=False),
    Variant("ids are captured after the load", "BUG", PAIR, ids_before_load=False),
    Variant("a flight that an invalidation has overtaken is joined", "BUG", BESIDE,
            asks_history_before_joining=False, asks_again_after_joining=False),
    Variant("the process forgets before its invalidation is pending", "BUG", BESIDE, pending_first=False),
    # -- the bound -----------------------------------------------------------------------------------------------------
    Variant("a load as long as the bound", "ok", TOLD, bound=2),
    Variant("the bound counts from the end of the load", "BUG", TOLD, bound=2, ages_from_ids=False),
    Variant("two invalidations within the bound", "ok", ((0, ("read", "read")), (1, ("tag", "tag"))), bound=2),
    Variant("touch", "ok", TOUCH, bound=2, warm=True),
    Variant("touch begins the bound anew", "BUG", TOUCH, bound=2, warm=True, touch_keeps_age=False),
    Variant("two calls share a flight, far from the invalidation", "ok", SHARED),
    Variant("a flight older than the bound is joined for good", "BUG", SHARED, asks_again_after_joining=False),
    # -- losses --------------------------------------------------------------------------------------------------------
    Variant("markers vanish twice", "ok", TOLD, warm=True, disk=0, faults={"evict": 2}),
    Variant("a missing marker matches", "BUG", TOLD, warm=True, disk=0, faults={"evict": 2}, missing_matches=True),
    Variant("the authority restarts empty, a process restarts with its disk", "ok", TOLD,
            warm=True, disk=0, faults={"empty": 1, "restart": 1}),
    Variant("the disk is trusted without ids", "BUG", TOLD,
            warm=True, disk=0, faults={"restart": 1}, judges_disk=False),
    Variant("the invalidating process dies anywhere", "ok", TOLD, disk=0, faults={"die": 1}, victim=1),
    Variant("a marker vanishes while it is renewed", "ok", TOLD, warm=True, faults={"evict": 1}, renews_in_one=False),
    Variant("the authority returns to an old state, and values do not depend on the namespace", "BUG", TOLD,
            warm=True, faults={"roll back": 1}),
    # -- outages -------------------------------------------------------------------------------------------------------
    Variant("the authority is unreachable, own reads", "ok", BESIDE, faults={"outage": 1}),
    Variant("reads do not go around what is pending", "BUG", BESIDE, faults={"outage": 1}, reads_around_pending=False),
    Variant("two commands fail", "ok", TOLD, faults={"outage": 2}),
    Variant("payloads are stored late", "ok", TWICE, faults={"slow store": 1}),
    Variant("an outage, a lost marker, a restart", "ok", TOLD,
            warm=True, disk=0, faults={"evict": 1, "outage": 1, "restart": 1}),
    Variant("an outage, and the authority restarts empty", "ok", ((0, ("read", "read")), (1, ("tag", "tag"))),
            warm=True, disk=0, faults={"empty": 1, "outage": 1}),
    Variant("a repeated renewal, two processes", "ok", ((0, ("read",)), (1, ("tag",)), (2, ("tag",))),
            deps=(T,), faults={"outage": 1}),
    Variant("a repeated renewal brings the same id again", "BUG", ((0, ("read",)), (1, ("tag",)), (2, ("tag",))),
            deps=(T,), faults={"outage": 1}, retries_draw=False),
    # -- set -----------------------------------------------------------------------------------------------------------
    Variant("set beside reads", "ok", ((0, ("read",)), (0, ("set", "read")), (1, ("read",))), deps=(K,)),
    Variant("set in another process", "ok", ((0, ("read", "read")), (1, ("set",)))),
    Variant("set without a new key id", "BUG", ((0, ("read", "read")), (1, ("set",))), set_renews=False),
    Variant("set, then an invalidation, in an outage", "ok", SET, deps=(K,), disk=0, faults={"outage": 1}),
    Variant("set sends its payload before its new id has arrived", "BUG", SET,
            deps=(K,), disk=0, faults={"outage": 1}, set_waits=False),
    # -- tags known only after the load --------------------------------------------------------------------------------
    Variant("a late tag, its invalidation elsewhere", "ok", ((0, ("read", "read")), (1, ("late", "read"))), deps=KL),
    Variant("a late tag, reads beside its own invalidation", "ok", LATE_BESIDE, deps=KL),
    Variant("a late tag, and a flight is joined for good", "BUG", LATE_BESIDE, deps=KL, asks_again_after_joining=False),
    Variant("a late tag, an outage, a restart, a disk", "ok", ((0, ("read", "read")), (1, ("late", "read"))),
            deps=KL, disk=0, faults={"outage": 1, "restart": 1}),
    Variant("a late tag and set, in an outage", "ok", ((0, ("set", "late", "read")), (1, ("read",))),
            deps=KL, faults={"outage": 1}),
    Variant("a late tag, its own invalidation pending", "ok", LATE_BESIDE,
            deps=KL, warm=True, disk=0, faults={"outage": 1}),
    Variant("a late tag, pending ones looked up after the ids", "BUG", LATE_BESIDE,
            deps=KL, warm=True, disk=0, faults={"outage": 1}, asks_late_pending="when judging"),
    Variant("a late tag, pending ones not looked up", "BUG", LATE_BESIDE,
            deps=KL, warm=True, disk=0, faults={"outage": 1}, asks_late_pending="never"),
    # -- the rule log --------------------------------------------------------------------------------------------------
    Variant("two rules are appended at one head", "ok", RULES, deps=KG),
    Variant("only the newest rule of a head is tested", "BUG", RULES, deps=KG, tests_all_links=False),
    Variant("the log loses its oldest rule", "ok", TRIMMED, deps=KG, max_rules=1),
    Variant("an unknown head matches", "BUG", TRIMMED, deps=KG, max_rules=1, unknown_head_matches=True),
    Variant("rules, and the authority restarts empty", "ok", ((0, ("read", "read")), (1, ("rule",))),
            deps=KG, warm=True, disk=0, faults={"empty": 1}),
    Variant("rules, in an outage", "ok", ((0, ("read",)), (0, ("rule", "read"))),
            deps=KG, warm=True, faults={"outage": 1}),
    Variant("a repeated rule, two processes", "ok", ((0, ("read",)), (1, ("rule",)), (2, ("rule",))),
            deps=(G,), faults={"outage": 1}),
    Variant("a repeated rule brings the same id again", "BUG", ((0, ("read",)), (1, ("rule",)), (2, ("rule",))),
            deps=(G,), faults={"outage": 1}, retries_draw=False),
    # -- the link ------------------------------------------------------------------------------------------------------
    Variant("linked: two processes", "ok", PAIR, linked=True),
    Variant("linked: one process, reads beside its own invalidation", "ok", BESIDE, linked=True),
    Variant("linked: three invalidations", "ok", ((0, ("read", "read")), (1, ("tag", "read", "key"))),
            linked=True, warm=True),
    Variant("linked: a black hole", "ok", TOLD, linked=True, faults={"hole": 1}),
    Variant("linked: a black hole, a longer bound", "ok", TOLD, linked=True, bound=2, faults={"hole": 1}),
    Variant("linked: the heartbeat overtakes the signals", "BUG", TOLD, linked=True, heartbeat_queues=False),
    Variant("linked: what a lost link has missed is kept under it", "BUG", TOLD,
            linked=True, faults={"hole": 1}, loss_voids=False),
    Variant("linked: values that are not under the link outlive its loss", "BUG", TOLD,
            linked=True, faults={"hole": 1, "outage": 1}, loss_asks_all=False),
    Variant("linked: the authority restarts empty, with a disk", "ok", TOLD,
            linked=True, warm=True, disk=0, faults={"empty": 1}),
    Variant("linked: in an outage", "ok", TOLD, deps=(T,), linked=True, warm=True, faults={"outage": 1}),
    Variant("linked: the signal comes after the marker", "ok", TOLD, deps=(T,), linked=True, signals="after it"),
    Variant("linked: the signal comes before the marker", "BUG", TOLD, linked=True, signals="before it"),
    Variant("linked: a marker vanishes while it is renewed", "ok", ((1, ("tag",)), (2, ("refresh",))),
            deps=(T,), linked=True, warm=True, faults={"evict": 1}, renews_in_one=False),
    Variant("linked: no signal when the marker had vanished", "BUG", ((1, ("tag",)), (2, ("refresh",))),
            deps=(T,), linked=True, warm=True, faults={"evict": 1}, renews_in_one=False, signals="when it changed"),
    Variant("linked: touch", "ok", TOUCH, linked=True, warm=True, faults={"hole": 1}),
    Variant("linked: rules", "ok", ((0, ("read", "read")), (1, ("rule",))), deps=KG, linked=True, warm=True),
    Variant("linked: set, a black hole", "ok", ((0, ("read",)), (1, ("set",))),
            linked=True, warm=True, faults={"hole": 1, "outage": 1}),
    # -- late tags behind the barrier ----------------------------------------------------------------------------------
    Variant("linked: a late tag", "ok", ((0, ("read",)), (1, ("late", "read"))), deps=KL, linked=True),
    Variant("linked: a late tag, then the key", "ok", ((0, ("read", "read")), (1, ("late", "key"))),
            deps=KL, linked=True),
    Variant("linked: a late tag, reads beside its own invalidation", "ok", ((0, ("read",)), (0, ("late", "read"))),
            deps=KL, linked=True, faults={"outage": 1}),
    Variant("linked: a late tag, two calls, a black hole", "ok", ((0, ("read",)), (1, ("late",)), (0, ("read",))),
            deps=KL, linked=True, faults={"hole": 1}),
    Variant("linked: a late tag, restarts, with a disk", "ok", LATE,
            deps=KL, linked=True, warm=True, disk=0, faults={"empty": 1, "restart": 1}),
    Variant("linked: a late tag without the barrier", "BUG", LATE, deps=KL, linked=True, has_barrier=False),
    Variant("linked: a late tag, the history is not asked again", "BUG", LATE,
            deps=KL, linked=True, asks_history_after_barrier=False),
    Variant("linked: a late tag, the link is not asked again", "BUG", LATE,
            deps=KL, linked=True, faults={"hole": 1}, asks_link_after_barrier=False),
    Variant("linked: a late tag, the signal comes after the marker", "BUG", LATE,
            deps=KL, linked=True, signals="after it"),
    Variant("linked: a late tag, a signal spares what carries its id", "BUG", LATE,
            deps=KL, linked=True, spares="everything"),
    # -- ids that the link watches -------------------------------------------------------------------------------------
    Variant("known: an invalidation elsewhere", "ok", AGAIN, linked=True, knows=True, faults={"crowd": 2}),
    Variant("known: beside its own invalidation", "ok", ((0, ("read", "read")), (0, ("tag", "read"))),
            linked=True, knows=True, warm=True, faults={"crowd": 1}),
    Variant("known: beside its own invalidation, in an outage", "ok", ((0, ("read", "read")), (0, ("tag",))),
            deps=(T,), linked=True, knows=True, warm=True, faults={"crowd": 1, "outage": 1}),
    Variant("known: a black hole", "ok", ((0, ("read",)), (1, ("tag", "read"))),
            linked=True, knows=True, warm=True, faults={"crowd": 1, "hole": 1}),
    Variant("known: a marker vanishes", "ok", ((0, ("read", "read")), (1, ("read", "tag"))),
            deps=(T,), linked=True, knows=True, warm=True, faults={"crowd": 1, "evict": 1}),
    Variant("known: the authority restarts empty", "ok", ((0, ("read", "read")), (1, ("tag",))),
            deps=(T,), linked=True, knows=True, warm=True, faults={"crowd": 1, "empty": 1}),
    Variant("known: set", "ok", ((0, ("read", "read")), (1, ("set",)), (0, ("read",))),
            deps=(K,), linked=True, knows=True, warm=True, faults={"crowd": 1}),
    Variant("known: rules", "ok", ((0, ("read", "read")), (1, ("rule",))),
            deps=KG, linked=True, knows=True, warm=True, faults={"crowd": 1}),
    Variant("known: own rules beside reads", "ok", ((0, ("read", "read")), (0, ("rule", "read"))),
            deps=(G,), linked=True, knows=True, warm=True, faults={"crowd": 1}),
    Variant("known: a late tag", "ok", ((0, ("read", "read")), (1, ("late",))),
            deps=KL, linked=True, knows=True, warm=True, faults={"crowd": 2}),
    Variant("known: a late tag, and the key", "ok", ((0, ("read", "read")), (1, ("key", "late"))),
            deps=KL, linked=True, knows=True, warm=True, faults={"crowd": 2}),
    Variant("known: signals are not heeded", "BUG", AGAIN, linked=True, knows=True, faults={"crowd": 2},
            signals_drop_known=False),
    Variant("known: own invalidations are not heeded", "BUG", ((0, ("read", "read")), (0, ("tag", "read"))),
            linked=True, knows=True, warm=True, faults={"crowd": 1}, own_drop_known=False),
    Variant("known: the loss of the link is not heeded", "BUG", ((0, ("read", "read")), (1, ("tag",))),
            linked=True, knows=True, warm=True, faults={"crowd": 2, "hole": 1}, loss_drops_known=False),
    Variant("known: learnt though something was invalidated meanwhile", "BUG",
            ((0, ("read", "read")), (0, ("tag", "read"))),
            linked=True, knows=True, faults={"crowd": 1}, learns_undisturbed=False),
    Variant("known: a late tag beside its own invalidation, in an outage", "ok",
            ((0, ("read", "read")), (0, ("late",))),
            deps=KL, linked=True, knows=True, warm=True, faults={"crowd": 1, "outage": 1}),
    Variant("known: learnt though something was pending", "BUG", ((0, ("read", "read")), (0, ("late",))),
            deps=KL, linked=True, knows=True, warm=True, faults={"crowd": 1, "outage": 1}, learns_clean=False),
    Variant("known: a late tag is not judged", "BUG", ((0, ("read", "read")), (1, ("late",))),
            deps=KL, linked=True, knows=True, warm=True, faults={"crowd": 2}, judges_by_all_known=False),
    # -- where the promise ends ----------------------------------------------------------------------------------------
    # Nobody knows of a write whose writer died before it invalidated: that takes a hold.
    Variant("limit: the writer dies between commit and invalidation", "BUG", TOLD,
            faults={"die": 1}, victim=1, goal_is_database=True),
    # `set` says what the value is: the caller keeps other writers out meanwhile, or invalidates instead.
    Variant("limit: set races with another writer", "BUG", ((0, ("set", "read")), (1, ("tag",)))),
]
# fmt: on
