"""A connection to one server, enough to run it: commands out, replies in, one after the other.

Operating servers takes a dozen commands in sequence and no pool, no retries, no decoding of types. The client library
would cost a third of a second before the first of them; this costs a page.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Final

__all__ = ["Refusal", "Wire", "info"]

_CHUNK: Final = 65536


class Refusal(Exception):  # noqa: N818 - an answer, and what it says
    """The server answered with an error; its text is the message."""


class Wire:
    """One connection, logged in.

    Args:
        host: the address.
        port: the port.
        password: of the user `default`.
        timeout: seconds that connecting and each reply may take.

    Raises:
        OSError: the server cannot be reached, or did not answer in time.
        Refusal: it refused the password.
    """

    def __init__(self, host: str, port: int, password: str, *, timeout: float = 2.0) -> None:
        self._buffer = b""
        self._socket = socket.create_connection((host, port), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.call("AUTH", "default", password)
        except BaseException:
            self._socket.close()
            raise

    def call(self, *words: str | int) -> Any:
        """Send one command and return its reply: text, int, None, or a list of these.

        Raises:
            OSError: the connection is lost, or the reply did not come in time.
            Refusal: the server answered with an error.
        """
        parts = [str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        try:
            return self._reply()
        except (ValueError, RecursionError) as error:
            raise ConnectionError(f"not a reply of a Redis or Valkey server: {type(error).__name__}") from error

    def info(self, *sections: str) -> dict[str, str]:
        """Return what `INFO` says, of all sections or of one."""
        return info(self.call("INFO", *sections))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            raise Refusal(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest)).decode(errors="replace")
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise ConnectionError(f"not a reply of a Redis or Valkey server: {line[:40]!r}")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        if size < 0:
            raise ValueError(size)
        while len(self._buffer) < size + 2:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
        return data

    def _receive(self) -> None:
        received = self._socket.recv(_CHUNK)
        if not received:
            raise ConnectionError("the server closed the connection")
        self._buffer += received


def info(text: str) -> dict[str, str]:
    """Return the fields of an `INFO` or `CLUSTER INFO` reply."""
    lines = (line.partition(":") for line in text.splitlines() if ":" in line and line[0] != "#")
    return {name: value for name, _, value in lines}
