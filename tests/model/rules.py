"""The rules that can be switched off, and the scenarios that they are tried in.

Every rule of the protocol is an option whose default is the rule. Switching one off gives a mutant, and the tables in
`variants` and `variants_masters` say which of them the model must catch: a rule that no mutant misses is not known to
be needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from model.world import Ids, K, T


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario, and the protocol it is played under.

    Attributes:
        name: what is tried.
        expect: `"ok"`, or `"BUG"` where a rule is missing, or where the promise ends.
        clients: for each client its process and its calls: `"read"`, `"refresh"`, `"touch"`, `"set"`,
            `"key"`, `"tag"`, `"late"` or `"rule"` (invalidations after a database write), `"other rule"`,
            `"strong"` (a read that asks), `"hold"` (holds the tag, writes, releases it).
        deps: what the value depends on.
        bound: ticks of the staleness bound.
        disk: the process that has a disk, or None.
        warm: whether everything is cached to begin with.
        linked: whether processes are told of invalidations.
        goal_is_database: whether quiescence must have what the database has, invalidated or not.
        budget: how many states the search may see.
        faults: how often each fault may happen: `evict`, `empty` (the authority restarts without data), `roll back`,
            `outage` (a command is refused; a renewal may lose its answer, or be carried out late), `slow store` (a
            payload is stored late), `cancel` (of a call that reads), `restart`, `die`, `hole`, `promote` (a
            replica with an older state becomes the master, while the old one goes on), `return` (to that old one, when
            everybody has left it), `lapse` (a hold runs out though its holder lives), `overflow` (a
            process forgets what it has invalidated, to say it again at a new master), `crowd` (a value leaves process
            memory for want of room).
        knows: whether processes remember ids under their links, and believe payloads that have them.
    """

    name: str
    expect: Literal["ok", "BUG"]
    clients: tuple[tuple[int, tuple[str, ...]], ...]
    deps: tuple[int, ...] = (K, T)
    bound: int = 1
    disk: int | None = None
    warm: bool = False
    linked: bool = False
    knows: bool = False
    goal_is_database: bool = False
    budget: int = 250_000
    faults: dict[str, int] = field(default_factory=dict)
    victim: int = 0
    """The process that `restart`, `die` and `hole` happen to."""
    shards: Ids = (0, 0, 0, 0, 0)
    """The shard of each dependency; the payload is where the key is, the known histories where the namespace is."""
    rolls: int | None = None
    """The shard that `roll back` happens to, or None for all."""
    promotes: int | None = None
    """The same for `promote`."""
    astray: tuple[int, ...] = ()
    """If any: `promote` has happened when everything begins, and these processes have not found out."""
    strangers: tuple[int, ...] = ()
    """The processes that have not talked to anybody when everything begins."""
    max_rules: int = 256

    keeps_history: bool = True
    """What was hit since its token is not admitted to process memory."""
    ids_before_load: bool = True
    missing_matches: bool = False
    reads_around_pending: bool = True
    pending_first: bool = True
    """An invalidation is pending before the process forgets."""
    judges_disk: bool = True
    unknown_head_matches: bool = False
    tests_all_links: bool = True
    """A value captured at a head is tested against every rule that was appended to it, not only the newest."""
    asks_late_pending: Literal["before the ids", "when judging", "never"] = "before the ids"
    """When a process notes that late tags are pending, which only the payload will name."""
    asks_history_before_joining: bool = True
    asks_again_after_joining: bool = True
    """Who joined a flight that is older than the bound, or was hit by a late tag, reads again when it lands."""
    retries_draw: bool = True
    """A repeated attempt to renew draws a new id."""
    set_waits: bool = True
    """`set` sends its payload only when the new key id has arrived."""
    set_renews: bool = True
    ages_from_ids: bool = True
    """The bound counts from when a value was known to be valid, not from when it came into process memory."""
    touch_keeps_age: bool = True
    renews_in_one: bool = True
    """Renewing is one step at the authority; else: replace where there is one, then create where there is none."""
    signals: Literal["with the marker", "before it", "after it", "when it changed"] = "with the marker"
    has_barrier: bool = True
    asks_history_after_barrier: bool = True
    asks_link_after_barrier: bool = True
    heartbeat_queues: bool = True
    """The link proves itself behind its signals: one that is overdue counts as lost."""
    loss_voids: bool = True
    """What was under way when the link was lost, or not yet up, is not kept under the link."""
    loss_asks_all: bool = True
    """When the link is lost, values that were not kept under it are asked about again too."""
    spares: Literal["nothing", "known", "everything"] = "known"
    """Which dependencies' signals leave a value alone that already carries the id they bring."""

    # -- ids that the link watches ---------------------------------------------------------------------------------
    signals_drop_known: bool = True
    """What was signalled is not known any more."""
    own_drop_known: bool = True
    """Nor is what the process itself invalidates."""
    loss_drops_known: bool = True
    """Nor is anything when the link is lost, or the master another one."""
    learns_undisturbed: bool = True
    """Ids are learnt where nothing was invalidated, and the link was up, since before they were read."""
    learns_clean: bool = True
    """Ids are learnt where nothing was pending before they were read."""
    judges_by_all_known: bool = True
    """A payload is believed when every id that it has is known, not only those of what the request names."""

    # -- masters are replaced --------------------------------------------------------------------------------------
    clears: Literal["each new history", "restarts", "promotions", "never"] = "each new history"
    """When the namespace's marker gets a new id: a master is met whose history is not known beside that marker."""
    clears_namespace: bool = True
    """What is renewed then is what every value depends on; else: only what is on the master's own shard."""
    tells_where_from: bool = True
    """A master whose marker does not know the history that a process comes from is cleared too."""
    refuses_unverified: bool = True
    """A connection carries nothing until the history of its master is known to be known."""
    asks_again: Literal["whoever is under way", "who discovers", "nobody"] = "whoever is under way"
    """Which reads that looked at what is pending, but have no ids yet, begin again when a new history is met."""
    verifies_all_again: bool = True
    """When the master beside the namespace's marker is another one, all shards' histories are asked about again."""
    first_meeting_counts: bool = True
    """A shard that a process had never talked to counts as a new history too."""
    replays: bool = True
    """A process invalidates again at a new master what another one had acknowledged."""
    overflow_is_namespace: bool = True
    """A process that has forgotten what it invalidated replays an invalidation of everything."""
    replay_is_pending: bool = True
    """What is replayed is read around until it has arrived."""
    acknowledged_by_current: bool = True
    """An acknowledgement counts only while its master is the one that the process talks to."""
    data_follows_link: bool = True
    """When the link is lost, no connection of before is used any more."""
    link_follows_data: bool = True
    """When commands go to another master, the link is lost."""
    move_asks_all: bool = True
    """Who changes its master asks again about what it has in memory, with a link and without."""
    notices: bool = True
    """A process finds out within the bound that its master is not the master any more."""

    # -- holds, strong reads, shards -------------------------------------------------------------------------------
    held_has_no_id: bool = True
    """Capturing gives no id to what is held."""
    holds_signal: Literal["always", "when an id went", "never"] = "always"
    """When the beginning of a hold is signalled."""
    holders_count: bool = True
    """A release ends the hold of its own holder alone."""
    invalidation_keeps_hold: bool = True
    """An invalidation by somebody else leaves a hold as it is."""
    release_renews: bool = True
    """A release brings a new id also when its hold has run out."""
    held_is_not_linked: bool = True
    """What was loaded under a hold is not kept under the link."""
    strong_asks: bool = True
    """A strong read is not served from process memory unasked."""
    strong_flies_alone: bool = True
    """A strong read joins no flight."""
    captures_after: int | None = None
    """The shard whose ids are captured after the load; no shard, if the rule is kept."""
    age_from: Literal["the first id", "the last id"] = "the first id"
    """From which of the shards' answers the age of a value counts."""
