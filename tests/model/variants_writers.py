"""The table of what concerns holds and strong reads; `variants` says how to read it."""

from __future__ import annotations

from typing import Any, Literal

from model.rules import Variant
from model.world import G, K, L, N, T

HELD = ((0, ("read", "read")), (1, ("hold",)))
HELD_AND_TOLD = ((0, ("read", "read")), (1, ("hold",)), (2, ("tag",)))
HELD_TWICE = ((0, ("read", "read")), (1, ("hold",)), (2, ("hold",)))
STRONG = ((0, ("read", "strong")), (1, ("tag",)))
THREADS = ((0, ("read",)), (0, ("strong",)), (1, ("tag",)))


def dying(
    name: str, expect: Literal["ok", "BUG"], clients: tuple[tuple[int, tuple[str, ...]], ...], **options: Any
) -> Variant:
    """Return a scenario in which the writer dies anywhere, and nothing may stay that is older than the database."""
    faults = {"die": 1, **options.pop("faults", {})}
    return Variant(name, expect, clients, **{"deps": (T,), **options}, faults=faults, victim=1, goal_is_database=True)


# fmt: off
WRITERS = [
    # -- holds ---------------------------------------------------------------------------------------------------------
    Variant("hold: beside own reads", "ok", ((0, ("read",)), (0, ("hold", "read"))), deps=(T,), warm=True),
    Variant("hold: in an outage", "ok", HELD, deps=(T,), warm=True, disk=0, faults={"outage": 1}),
    Variant("hold: in an outage, own reads", "ok", ((0, ("read",)), (0, ("hold", "read"))),
            deps=(T,), warm=True, faults={"outage": 1}),
    Variant("hold: it runs out while its writer writes", "ok", HELD, deps=(T,), warm=True, faults={"lapse": 1}),
    Variant("hold: linked, beside own reads", "ok", ((0, ("read",)), (0, ("hold", "read"))), deps=(T,), linked=True),
    Variant("hold: linked, it runs out while its writer writes", "ok", ((0, ("read",)), (1, ("hold",))),
            deps=(T,), warm=True, linked=True, faults={"lapse": 1}),
    Variant("hold: a replica is promoted without it", "ok", HELD, deps=(T, N), warm=True, faults={"promote": 1}),
    Variant("known: a hold", "ok", HELD, deps=(T,), warm=True, linked=True, knows=True, faults={"crowd": 1}),
    Variant("known: own hold", "ok", ((0, ("read", "read")), (0, ("hold",))),
            deps=(T,), warm=True, linked=True, knows=True, faults={"crowd": 1}),
    dying("hold: the writer dies", "ok", HELD, deps=(K, T), warm=True, disk=0),
    dying("hold: the writer dies, linked", "ok", HELD, warm=True, linked=True),
    dying("hold: the writer dies, the marker had vanished, linked", "ok", HELD,
          warm=True, linked=True, faults={"evict": 1}),
    dying("hold: the writer dies, another one invalidates", "ok", HELD_AND_TOLD),
    dying("hold: one of two writers dies", "ok", HELD_TWICE),
    dying("hold: what is held gets an id when it is captured", "BUG", HELD, held_has_no_id=False),
    dying("hold: nobody is told of it, linked", "BUG", HELD, warm=True, linked=True, holds_signal="never"),
    dying("hold: nobody is told when the marker had vanished, linked", "BUG", HELD,
          warm=True, linked=True, faults={"evict": 1}, holds_signal="when an id went"),
    dying("hold: values loaded meanwhile are kept under the link", "BUG", HELD, linked=True, held_is_not_linked=False),
    dying("hold: a release ends the holds of others", "BUG", HELD_TWICE, holders_count=False),
    dying("hold: an invalidation ends it", "BUG", HELD_AND_TOLD, invalidation_keeps_hold=False),
    Variant("hold: a release does nothing when it has run out", "BUG", HELD,
            deps=(T,), faults={"lapse": 1}, release_renews=False),
    # -- strong reads --------------------------------------------------------------------------------------------------
    Variant("strong: from memory and disk, in an outage", "ok", STRONG, warm=True, disk=0, faults={"outage": 1}),
    Variant("strong: beside a flight", "ok", THREADS, deps=(T,)),
    Variant("strong: beside own invalidation, in an outage", "ok", ((0, ("strong",)), (0, ("tag", "strong"))),
            deps=(T,), faults={"outage": 1}),
    Variant("strong: linked, a black hole", "ok", THREADS, deps=(T,), warm=True, linked=True, faults={"hole": 1}),
    Variant("strong: a late tag", "ok", ((0, ("read", "strong")), (1, ("late",))), deps=(K, L), linked=True),
    Variant("strong: rules", "ok", ((0, ("read", "strong")), (1, ("rule",))), deps=(K, G)),
    Variant("strong: shards, one does not answer", "ok", STRONG,
            shards=(0, 1, 0, 0, 0), warm=True, faults={"outage": 1}),
    Variant("strong: the authority returns to an old state", "ok", STRONG,
            deps=(T, N), warm=True, faults={"roll back": 1}),
    Variant("strong: served from memory", "BUG", STRONG, deps=(T,), warm=True, strong_asks=False),
    Variant("strong: served from memory under a link that has silently died", "BUG", STRONG,
            deps=(T,), warm=True, linked=True, faults={"hole": 1}, strong_asks=False),
    Variant("strong: joins a flight", "BUG", THREADS, deps=(T,), strong_flies_alone=False),
    # -- where the promise ends ----------------------------------------------------------------------------------------
    # A hold must outlast the commit: what is loaded between the two is older than the database.
    dying("limit: the hold runs out, the writer commits and dies", "BUG", HELD, faults={"lapse": 1}),
    dying("limit: the master is replaced during the hold, the writer commits and dies", "BUG", HELD,
          deps=(T, N), faults={"promote": 1}),
]
# fmt: on
