"""The table of what concerns masters that are replaced, and several shards; `variants` says how to read it."""

from __future__ import annotations

from model.rules import Variant
from model.world import K, L, N, T

TN = (T, N)
KTN = (K, T, N)
KLN = (K, L, N)
APART = (0, 1, 0, 0, 0)
"""The tag is on a shard of its own."""

ONCE = ((0, ("read",)), (1, ("tag",)))
TOLD = ((0, ("read", "read")), (1, ("tag",)))
MOVE = ((0, ("read",)), (1, ("tag", "read")))
BESIDE = ((0, ("read",)), (0, ("tag", "read")))
LATE = ((0, ("read", "read")), (1, ("late",)))
STRONG = ((0, ("read", "strong")), (1, ("tag",)))
THREADS = ((0, ("read",)), (0, ("strong",)), (1, ("tag",)))
KNOWN = ((0, ("read",)), (1, ("read", "tag")))
BACK = {"roll back": 1}
PROMOTE = {"promote": 1}
RETURN = {"promote": 1, "return": 1}

# fmt: off
MASTERS = [
    # -- the authority comes back with an older state ------------------------------------------------------------------
    Variant("the authority returns to an old state", "ok", TOLD, deps=KTN, warm=True, disk=0, faults=BACK),
    Variant("the authority returns to an old state twice", "ok", ONCE, deps=TN, faults={"roll back": 2}),
    Variant("the authority returns to an old state, in an outage", "ok", TOLD,
            deps=TN, warm=True, faults={"roll back": 1, "outage": 1}),
    Variant("the authority restarts empty, and then with an old state", "ok", ONCE,
            deps=TN, warm=True, disk=0, faults={"empty": 1, "roll back": 1}),
    Variant("linked: the authority returns to an old state", "ok", TOLD, deps=TN, warm=True, linked=True, faults=BACK),
    Variant("a late tag, the authority returns to an old state", "ok", LATE,
            deps=KLN, warm=True, faults={"roll back": 1, "restart": 1}),
    Variant("new histories are not cleared", "BUG", TOLD, deps=KTN, warm=True, faults=BACK, clears="never"),
    Variant("linked: new histories are not cleared", "BUG", TOLD,
            deps=TN, warm=True, linked=True, faults=BACK, clears="never"),
    Variant("only promotions are cleared", "BUG", TOLD, deps=TN, warm=True, faults=BACK, clears="promotions"),
    Variant("a late tag, its id comes from a newer history than the others", "BUG", LATE,
            deps=KLN, warm=True, faults={"roll back": 1, "restart": 1}, asks_again="nobody"),
    Variant("known: the authority returns to an old state", "ok", ONCE,
            deps=TN, warm=True, linked=True, knows=True, faults={"crowd": 1, "roll back": 1}),
    Variant("known: two masters", "ok", ONCE,
            deps=TN, warm=True, linked=True, knows=True, faults={"crowd": 1, "promote": 1}, astray=(0, 1)),
    # -- two masters for a while ---------------------------------------------------------------------------------------
    Variant("a replica is promoted without the latest writes", "ok", TOLD, deps=TN, warm=True, disk=0, faults=PROMOTE),
    Variant("two masters, a longer bound", "ok", TOLD, deps=TN, warm=True, bound=2, faults=PROMOTE),
    Variant("two masters, who invalidates at the old one reads", "ok", MOVE, deps=TN, faults=PROMOTE),
    Variant("two masters, reads beside the invalidation", "ok", BESIDE, deps=TN, faults=PROMOTE),
    Variant("two masters, a refresh", "ok", ((0, ("refresh", "read")), (1, ("tag",))), deps=TN, faults=PROMOTE),
    Variant("two masters, set", "ok", ((0, ("read",)), (1, ("set",))), deps=(K, N), faults=PROMOTE),
    Variant("linked: two masters", "ok", ONCE, deps=TN, linked=True, faults=PROMOTE, astray=(0, 1)),
    Variant("only restarts are cleared", "BUG", TOLD, deps=TN, warm=True, faults=PROMOTE, clears="restarts"),
    Variant("nothing is replayed", "BUG", MOVE, deps=TN, faults=PROMOTE, astray=(0, 1), replays=False),
    Variant("what is replayed is not read around", "BUG", MOVE,
            deps=TN, faults=PROMOTE, astray=(0, 1), replay_is_pending=False),
    Variant("only the read that meets the new master asks again", "BUG", MOVE,
            deps=TN, faults=PROMOTE, astray=(0, 1), asks_again="who discovers"),
    Variant("two masters, the journal overflows", "ok", MOVE,
            deps=TN, faults={"promote": 1, "overflow": 1}, astray=(0, 1)),
    Variant("what the journal had no room for is not replayed", "BUG", MOVE,
            deps=TN, faults={"promote": 1, "overflow": 1}, astray=(0, 1), overflow_is_namespace=False),
    Variant("the old master's acknowledgement counts after the move", "BUG", MOVE,
            deps=TN, faults=PROMOTE, astray=(0, 1), acknowledged_by_current=False),
    Variant("memory outlives the move", "BUG", TOLD, deps=TN, warm=True, bound=2, faults=PROMOTE, move_asks_all=False),
    Variant("nobody notices that the master is not the master any more", "BUG", TOLD,
            deps=TN, warm=True, faults=PROMOTE, notices=False),
    Variant("linked: commands go to the old master, the link to the new one", "BUG", TOLD,
            deps=TN, warm=True, linked=True, faults=PROMOTE, data_follows_link=False),
    Variant("linked: commands go to the new master, the link to the old one", "BUG", TOLD,
            deps=TN, warm=True, linked=True, faults=PROMOTE, link_follows_data=False),
    Variant("the old master is made the master again", "ok", TOLD, deps=TN, warm=True, faults=RETURN),
    Variant("who comes from the other master does not say so", "BUG", TOLD,
            deps=TN, warm=True, faults=RETURN, tells_where_from=False),
    # -- several shards ------------------------------------------------------------------------------------------------
    Variant("shards: one process reads, another invalidates", "ok", ((0, ("read", "read")), (1, ("tag", "read"))),
            shards=APART),
    Variant("shards: invalidations on both", "ok", ((0, ("read", "read")), (1, ("tag",)), (2, ("key",))), shards=APART),
    Variant("shards: a longer bound", "ok", TOLD, shards=APART, bound=2, warm=True),
    Variant("shards: one does not answer", "ok", TOLD, shards=APART, warm=True, disk=0, faults={"outage": 1}),
    Variant("shards: one does not answer, own reads", "ok", BESIDE, shards=APART, faults={"outage": 1}),
    Variant("shards: linked, a black hole", "ok", TOLD, shards=APART, warm=True, linked=True, faults={"hole": 1}),
    Variant("shards: the tag's returns to an old state", "ok", TOLD,
            deps=KTN, shards=APART, warm=True, disk=0, faults=BACK, rolls=1),
    Variant("shards: the key's returns to an old state", "ok", ((0, ("read", "read")), (1, ("key",))),
            deps=KTN, shards=APART, warm=True, disk=0, faults=BACK, rolls=0),
    Variant("shards: the tag's returns to an old state, in an outage", "ok", TOLD,
            deps=TN, shards=APART, warm=True, faults={"roll back": 1, "outage": 1}, rolls=1),
    Variant("shards: the tag's returns to an old state, linked", "ok", ONCE,
            deps=TN, shards=APART, warm=True, linked=True, faults=BACK, rolls=1),
    Variant("shards: the tag's returns to an old state, two threads", "ok", THREADS,
            deps=TN, shards=APART, warm=True, faults=BACK, rolls=1),
    Variant("shards: the tag's returns to an old state, and is met for the first time", "ok", ONCE,
            deps=TN, shards=APART, warm=True, faults=BACK, rolls=1, strangers=(0,)),
    Variant("shards: ages count from the last answer", "BUG", TOLD,
            shards=APART, bound=2, warm=True, age_from="the last id"),
    Variant("shards: the tag's id is captured after the load", "BUG", MOVE, shards=APART, captures_after=1),
    Variant("shards: the key's id is captured after the load", "BUG", ((0, ("read",)), (1, ("key", "read"))),
            shards=APART, captures_after=0),
    Variant("shards: a new history clears its own shard alone", "BUG", TOLD,
            deps=KTN, shards=APART, warm=True, faults=BACK, rolls=1, clears_namespace=False),
    Variant("shards: a connection is used though its history could not be asked about", "BUG", TOLD,
            deps=TN, shards=APART, warm=True, faults={"roll back": 1, "outage": 1}, rolls=1, refuses_unverified=False),
    Variant("shards: a read that meets a new history goes on", "BUG", TOLD,
            deps=TN, shards=APART, warm=True, faults=BACK, rolls=1, asks_again="nobody"),
    Variant("shards: a read goes on when another thread meets a new history", "BUG", THREADS,
            deps=TN, shards=APART, warm=True, faults=BACK, rolls=1, asks_again="who discovers"),
    Variant("shards: a read goes on when it meets a shard for the first time", "BUG", ONCE,
            deps=TN, shards=APART, warm=True, faults=BACK, rolls=1, strangers=(0,), first_meeting_counts=False),
    Variant("shards: one has two masters while the other returns to an old state", "ok", KNOWN,
            deps=TN, shards=APART, faults={"promote": 1, "roll back": 1}, promotes=0, astray=(0,), rolls=1),
    Variant("shards: what the namespace's old master was told is not asked again", "BUG", KNOWN,
            deps=TN, shards=APART, faults={"promote": 1, "roll back": 1}, promotes=0, astray=(0,), rolls=1,
            verifies_all_again=False),
    # -- where the promise ends ----------------------------------------------------------------------------------------
    # What only the old master knows, nobody else does: its writer was the one to tell the new master.
    Variant("limit: the writer dies when the old master has acknowledged", "BUG", TOLD,
            deps=TN, faults={"promote": 1, "die": 1}, victim=1),
    # A strong read asks the master that its process knows.
    Variant("limit: a strong read asks the old master", "BUG", ((0, ("strong",)), (1, ("tag",))),
            deps=TN, warm=True, faults=PROMOTE),
]
# fmt: on
