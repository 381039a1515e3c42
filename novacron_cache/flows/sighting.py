"""What a payload has to look like to be believed, where many are looked at: the check that `together` goes by.

Theory. See `nearby` for why known ids can only say yes. Here they say so without a list of ids for each payload. The
values of a batch have their first dependencies in common, and often their tags; so what stands before the id of the key
itself is the same text in many payloads. It is held against what is known when it is first met, together with the ids
that the tags in it must have at the end, and recognised from then on. The id of the key is looked up for each payload.

All of this is looked up after the reply, but not all at one moment, and an id that was known at the first look may be
signalled before the last. So whoever goes by this asks the history of this process in the end, which names everything
that stopped being known one by one, and looks for the id of the key in what is known *now*: all that is known at all is
given up at once by putting another dictionary there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..codecs import IDS_BEFORE, read_tags
from ..markers import ID_BYTES, tag_dep

__all__ = ["Beginning", "Beginnings"]

Pairs = tuple[tuple[str, bytes], ...]


class Beginning:
    """What stands in a payload before the id of its key, and what has to stand behind that.

    Attributes:
        tags: the tags that it names.
        pairs: their (dependency, id) pairs.
        deps: the dependencies in those.
        last: the ids of the tags, which come last; None where the payload must not be believed.
    """

    __slots__ = ("deps", "last", "pairs", "tags")

    def __init__(self) -> None:
        self.tags: tuple[str, ...] = ()
        self.pairs: Pairs = ()
        self.deps: tuple[str, ...] = ()
        self.last: bytes | None = None


class Beginnings(dict[bytes, Beginning]):
    """The beginnings that one call has met.

    Args:
        known: the ids that the link watches.
        common: the dependencies whose ids come first, in their order.

    Attributes:
        first: those with their ids; empty unless all are known, and then no payload is believed.
    """

    def __init__(self, known: Mapping[str, bytes], common: Sequence[str]) -> None:
        super().__init__()
        self._known = known
        first = self._look_up(common)
        self.first = first or ()
        self._ids = None if first is None else b"".join([marker_id for _, marker_id in first])

    def __missing__(self, text: bytes) -> Beginning:
        found = self[text] = Beginning()
        ids = len(text) - IDS_BEFORE * ID_BYTES
        if text[ids:] == self._ids and (tags := read_tags(text[:ids])) is not None:
            pairs = self._look_up([tag_dep(tag) for tag in tags])
            if pairs is not None:
                found.tags, found.pairs = tags, pairs
                found.deps = tuple([dep for dep, _ in pairs])
                found.last = b"".join([marker_id for _, marker_id in pairs])
        return found

    def _look_up(self, deps: Sequence[str]) -> Pairs | None:
        """Return dependencies with their ids; None unless all of them are known."""
        pairs = tuple([(dep, self._known.get(dep, b"")) for dep in deps])
        # Only ids of one length can be told apart once they stand one behind the other.
        return pairs if all(len(marker_id) == ID_BYTES for _, marker_id in pairs) else None

    def deps(self) -> set[str]:
        """Return the dependencies of tags in everything met so far."""
        return {dep for beginning in self.values() for dep in beginning.deps}
