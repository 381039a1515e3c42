"""An application for gunicorn: each request works with a cache, and the figures are mounted below `/cache`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any
from wsgiref.util import shift_path_info

from novacron_cache import Cache
from novacron_cache.observe import wsgi_app

cache = Cache.from_env()


@cache.cached(int, key="n:<n>", name="numbers")
def number(n: int) -> int:
    return n


for warm in range(5):
    number(warm)  # with --preload these are the master's calls, and its link is up before it forks

figures = wsgi_app(cache)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"].startswith("/cache"):
        shift_path_info(environ)
        return figures(environ, start_response)
    for n in range(10):
        number(n)
    cache.set(f"of:{os.getpid()}", 1)
    cache.invalidate_tags("none")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "parent": os.getppid()}).encode()]
