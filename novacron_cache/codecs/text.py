"""JSON by pydantic-core itself: the default, because nothing that ends in a validated model was measured faster."""

from __future__ import annotations

from typing import Any

from .base import Adapter, Codec, Dump, Load, register


class JsonCodec(Codec):
    """Writes and reads JSON in one step, without Python objects in between."""

    name = "json"
    format_id = 1

    def dump(self, adapter: Adapter, value: Any) -> bytes:
        """Return the value as JSON, its fields by name."""
        data: bytes = adapter.serializer.to_json(value, by_alias=False, round_trip=True, warnings="error")
        return data

    def load(self, adapter: Adapter, data: bytes) -> Any:
        """Return the value of a JSON text whose fields are written by name."""
        return adapter.validator.validate_json(data, by_alias=False, by_name=True)

    def bind(self, adapter: Adapter, *, by_name: bool) -> tuple[Dump, Load]:
        """Return pydantic-core's own methods where the type has no aliases to steer around."""
        if by_name:
            return adapter.serializer.to_json, adapter.validator.validate_json
        return super().bind(adapter, by_name=by_name)


JSON = register(JsonCodec())
