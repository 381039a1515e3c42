"""Every multi-step operation, written once.

A flow is a generator that yields what it needs (`effects`) and is sent the answer; a driver does the waiting. A call
goes `calling` (whether the cache is to answer; `unserved` where it is not), `nearby`, or `together` where there are
several keys (what this process knows to be valid, without asking), `reading` (process memory, then the shared tiers
under the ids of their markers), `leasing` (one process of the fleet loads), `capturing` (the ids that the value
will carry), `loading` (flights, the loader), `patience` (how long it waits for that), `storing` (far to near).
`dictionaries` has those that values are compressed with ready for reading and storing, wherever they are kept;
`writing` has `set` and `touch`, `invalidating` the one rule of this package: process memory first, then the shared
markers, and whatever cannot be delivered stays pending and is never read around.
"""

from collections.abc import Generator
from typing import Any, TypeAlias, TypeVar

from .calling import get_many, get_or_load, look, peek_many, way
from .invalidating import Done, Invalidation, deliver, hold, invalidate
from .leasing import keep_leases
from .loading import BatchLoad, get_unanswered, get_unfound, refresh, refresh_ahead, refresh_batch
from .loading import get_many as fill
from .nearby import Look, Sighted, is_near
from .reading import Found, consult
from .reading import peek_many as find
from .together import Read, read
from .together import get_many as get_values
from .writing import set_many, touch

T = TypeVar("T")
Flow: TypeAlias = Generator[Any, Any, T]

__all__ = [
    "BatchLoad",
    "Done",
    "Flow",
    "Found",
    "Invalidation",
    "Look",
    "Read",
    "Sighted",
    "consult",
    "deliver",
    "fill",
    "find",
    "get_many",
    "get_or_load",
    "get_unanswered",
    "get_unfound",
    "get_values",
    "hold",
    "invalidate",
    "is_near",
    "keep_leases",
    "look",
    "peek_many",
    "read",
    "refresh",
    "refresh_ahead",
    "refresh_batch",
    "set_many",
    "touch",
    "way",
]
