"""What a payload has to look like to be believed, where many are looked at: the check that `together` goes by.

Theory. See `nearby` for why known ids can only say yes. Here they say so without a list of ids for each payload. The
values of a batch have their first dependencies in common, and often their tags; so what stands before the id of the key
is the same in many payloads, and so is what says the tags and their ids. Each is held against what is known when it is
first met, and recognised from then on. The id of the key is looked up for each payload.

All of this is looked up after the reply, but not all at one moment, and an id that was known at the first look may be
signalled before the last. So whoever goes by this asks the history of this process in the end, which names everything
that stopped being known one by one, and looks for the id of the key in what is known *now*: all that is known at all is
given up at once by putting another dictionary there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..codecs import KEY_ID_AT, Form, Skimmer, read_tags
from ..markers import ID_BYTES, tag_dep

__all__ = ["Beginnings", "Tagged", "Tags"]

Pairs = tuple[tuple[str, bytes], ...]


class Tagged:
    """The tags of payloads, all of whose ids are known.

    Attributes:
        tags: as the payloads name them.
        pairs: their (dependency, id) pairs.
        deps: the dependencies in those.
    """

    __slots__ = ("deps", "pairs", "tags")

    def __init__(self, tags: tuple[str, ...], pairs: Pairs) -> None:
        self.tags = tags
        self.pairs = pairs
        self.deps = tuple([dep for dep, _ in pairs])

    def has(self, tags: tuple[str, ...]) -> bool:
        """Return whether all of some tags are among these."""
        return tags == self.tags or set(tags).issubset(self.tags)


class Beginnings(dict[bytes, "Form | None"]):
    """How payloads go on that begin so, by all that stands before the id of the key; None for what is not believed.

    Args:
        known: the ids that the link watches.
        common: the dependencies whose ids come first, in their order.
        skimmer: reads the payloads.

    Attributes:
        first: those dependencies with their ids.
    """

    def __init__(self, known: Mapping[str, bytes], common: Sequence[str], skimmer: Skimmer) -> None:
        super().__init__()
        self._skimmer = skimmer
        self.first: Pairs = tuple([(dep, known.get(dep, b"")) for dep in common])
        ids = [marker_id for _, marker_id in self.first]
        # Only ids of one length can be told apart once they stand one behind the other.
        self._ids = b"".join(ids) if all(len(marker_id) == ID_BYTES for marker_id in ids) else None

    def __missing__(self, text: bytes) -> Form | None:
        at = KEY_ID_AT - ID_BYTES * len(self.first)
        form = self[text] = self._skimmer.form(text[:at]) if text[at:] == self._ids else None
        return form


class Tags(dict[bytes, "Tagged | None"]):
    """The tags that one call has met, by what stands in payloads; None where a payload must not be believed.

    Args:
        known: the ids that the link watches.
    """

    def __init__(self, known: Mapping[str, bytes]) -> None:
        super().__init__()
        self._known = known

    def __missing__(self, text: bytes) -> Tagged | None:
        made, found = None, read_tags(text)
        if found is not None:
            tags, ids = found
            deps = list(map(tag_dep, tags))
            if all(self._known.get(dep) == one for dep, one in zip(deps, ids, strict=True)):
                made = Tagged(tags, tuple(zip(deps, ids, strict=True)))
        self[text] = made
        return made

    def deps(self) -> set[str]:
        """Return the dependencies of all tags met so far."""
        return {dep for tagged in self.values() if tagged is not None for dep in tagged.deps}
