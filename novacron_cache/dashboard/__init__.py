"""A live page of what a cache does, for a person who just looks.

`views` says what is looked at, one cache or a fleet; `board` looks once a second and keeps the last minutes; `charts`,
`tables` and `page` show it; `guard` decides who may see it; `serving` listens. It needs NiceGUI, which comes with the
extra `dashboard` and is imported when a dashboard is served, not before.
"""

from __future__ import annotations

from .serving import Dashboard, serve, serve_fleet

__all__ = ["Dashboard", "serve", "serve_fleet"]
