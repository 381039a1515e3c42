"""Pickle, for values that nothing else can carry. Reading one runs whatever its writer wanted, so only what was signed
with this application's key is ever read: the pipeline refuses to be built, and to open a payload, otherwise."""

from __future__ import annotations

import pickle
from typing import Any

from .base import Adapter, Codec, register


class PickleCodec(Codec):
    """Writes and reads pickles; usable with signing keys alone."""

    name = "pickle"
    format_id = 3
    native = True
    signed_only = True

    def dump(self, adapter: Adapter, value: Any) -> bytes:
        """Return the pickle of the value, in protocol 5."""
        del adapter
        return pickle.dumps(value, protocol=5)

    def load(self, adapter: Adapter, data: bytes) -> Any:
        """Return the unpickled value; the envelope has verified who wrote it."""
        del adapter
        return pickle.loads(data)  # noqa: S301 - the envelope opens such a body only under a valid signature


PICKLE = register(PickleCodec())
