"""The other process of a test: started with `python -m novacron_cache.testing.peer`, it calls what it is asked to.

It finds functions as its parent knows them: by module, and by the file of the module where that cannot be imported by
name, as with the test modules of `--import-mode=importlib`. The two talk through a pipe that the child inherits, so
that what functions print goes where it went before.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import reduce
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..errors import DeclarationError
from ..settings import CacheSettings

__all__ = ["Place", "place_of", "serve"]


class Place(NamedTuple):
    """Where a function is found in another process.

    Attributes:
        module: its module's name.
        file: that module's file; None where it has none.
        path: the names that lead to it from there.
    """

    module: str
    file: str | None
    path: tuple[str, ...]


def place_of(function: Callable[..., Any]) -> Place:
    """Return where another process finds a function.

    Raises:
        DeclarationError: it cannot be found by name: a lambda, a function made in another one, a bound method.
    """
    name = getattr(function, "__qualname__", "")
    if not name or "<" in name or inspect.ismethod(function):
        raise DeclarationError(
            f"another process cannot find {name or function!r}: give it a function of a module, by its own name"
        )
    module = function.__module__
    return Place(module, getattr(sys.modules.get(module), "__file__", None), tuple(name.split(".")))


def _found(place: Place) -> Callable[..., Any]:
    module = sys.modules.get(place.module)
    if module is None:
        try:
            module = importlib.import_module(place.module)
        except ModuleNotFoundError:
            if place.file is None:
                raise
            spec = importlib.util.spec_from_file_location(place.module, place.file)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[place.module] = module
            spec.loader.exec_module(module)
    function: Callable[..., Any] = reduce(getattr, place.path, module)  # type: ignore[assignment]  # a module first
    return function


def serve(pipe: Connection) -> None:
    """Make a cache of the settings that come first, and obey until the other end is closed.

    Each message is a place and pickled arguments; the answer is the result, or the error with its traceback.
    """
    from ..default import configure

    settings: dict[str, Any]
    settings, sys.path[:] = pipe.recv()
    with ExitStack() as stack:
        cache = stack.enter_context(configure(CacheSettings(**settings)))
        runner = stack.enter_context(asyncio.Runner())
        cache.get("nothing")  # what listens to other processes starts with the first question
        pipe.send(("ready", None))
        while True:
            try:
                place, arguments = pipe.recv()
            except EOFError:
                return
            try:
                function = _found(place)
                args, kwargs = pickle.loads(arguments)  # noqa: S301 - its own parent wrote it
                answer = function(*args, **kwargs)
                if inspect.iscoroutine(answer):
                    answer = runner.run(answer)
                _send(pipe, "done", answer)
            except Exception as error:
                _send(pipe, "raised", error)


def _send(pipe: Connection, what: str, value: Any) -> None:
    text = "".join(traceback.format_exception(value)) if isinstance(value, BaseException) else ""
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - an error may be written that cannot be read
    except Exception as wrong:
        value = RuntimeError(f"{value!r} cannot be sent to another process: {wrong}")
        what = "raised"
    pipe.send((what, (value, text)))


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as inherited:
        serve(inherited)
