"""Servers that the framework starts itself; applications in production connect to servers that others run."""

from __future__ import annotations

from .embedded import EmbeddedServer

__all__ = ["EmbeddedServer"]
