"""Several real processes over one server or one directory: what one invalidates, the others must not serve.

The test's own process is one of them. The others have memory of their own, a link of their own, and can be killed or
stopped, which no thread can.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from multiprocessing import Pipe
from typing import Any, ParamSpec, TypeVar, overload

from ..durations import Duration, seconds
from ..errors import DeclarationError
from ..link import LinkState
from .driving import eventually
from .isolating import IsolatedCache
from .peer import place_of

__all__ = ["Fleet", "PeerProcess"]

P = ParamSpec("P")
R = TypeVar("R")

STARTED = 30.0
"""Seconds that a process may take to start: it imports what it needs."""


class PeerProcess:
    """Another process, with a default cache of its own over the tiers of the fleet.

    Args:
        settings: what `CacheSettings` takes, for its cache.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of this package
            [sys.executable, "-m", f"{__package__}.peer", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self._pipe.send((settings, sys.path))
        self._answer("starting", STARTED)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in that process and return its result.

        Args:
            function: one of a module, by its own name; a coroutine function is awaited there.
            args: its arguments, which are pickled.
            kwargs: as `args`.

        Raises:
            DeclarationError: the other process could not find the function.
            AssertionError: the process has ended, or does not answer within 30 seconds.
            Exception: what the function raised there.
        """
        place = place_of(function)
        self._pipe.send((place, pickle.dumps((args, kwargs))))
        what, (value, text) = self._answer(f"calling {'.'.join(place.path)}", STARTED)
        if what == "raised":
            value.add_note(f"in process {self.pid}:\n{text}")
            raise value
        return value

    def _answer(self, doing: str, within: float) -> Any:
        try:
            if self._pipe.poll(within):
                return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise AssertionError(f"process {self.pid} ended while {doing}: code {self._process.wait()}") from None
        raise AssertionError(f"process {self.pid} does not answer: {doing} for {within:.0f} s")

    def kill(self) -> None:
        """End the process as a crash would, without a last word."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop the process where it is, as a debugger or a starved machine would."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process: its cache is closed first."""
        self._pipe.close()
        if self._process.poll() is None:
            self.resume()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


class Fleet:
    """This process, and others that a test starts.

    Args:
        here: the cache of this process.
        settings: what `CacheSettings` took for it, for the others.

    Attributes:
        here: the cache of this process.
        peers: the others.
    """

    def __init__(self, here: IsolatedCache, settings: dict[str, Any]) -> None:
        if not here.cache.engine.shared:
            raise DeclarationError("processes share nothing but a server or a disk; the fleet's cache has neither")
        self.here = here
        self.peers: list[PeerProcess] = []
        self._settings = settings

    def start(self) -> PeerProcess:
        """Start another process and return it when it is ready; it is ended with the test."""
        self.peers.append(PeerProcess(self._settings))
        self.listen()
        return self.peers[-1]

    def listen(self, *, within: float = 10.0) -> None:
        """Wait until this process hears what others invalidate; it does not have to for them to be right.

        Args:
            within: seconds.

        Raises:
            AssertionError: it does not.
        """
        self.here.cache.get("nothing")
        link = self.here.cache.engine.link
        if link is not None and not eventually(lambda: link.state is LinkState.UP, within=within):
            raise AssertionError(f"no link within {within} s")

    def assert_agreement(self, function: Callable[..., R], *args: Any, within: Duration = "3s", **kwargs: Any) -> R:
        """Return what a function returns in every process, waiting until they agree.

        Args:
            function: as for `PeerProcess.call`, but not a coroutine function.
            args: its arguments.
            within: how long they may disagree; the default is that of the staleness bound.
            kwargs: as `args`.

        Raises:
            AssertionError: they do not agree.
        """
        answers: list[R] = []

        def agree() -> bool:
            answers[:] = [function(*args, **kwargs), *(peer.call(function, *args, **kwargs) for peer in self.peers)]
            return all(answer == answers[0] for answer in answers)

        if not eventually(agree, within=seconds(within, what="within")):
            name = getattr(function, "__qualname__", repr(function))
            raise AssertionError(f"after {within} the processes still differ about {name}: {answers}")
        return answers[0]

    def close(self) -> None:
        """End the other processes."""
        for peer in self.peers:
            peer.close()
