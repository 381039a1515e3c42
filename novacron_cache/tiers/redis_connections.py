"""How the redis tier reaches a server, and what its failures are called.

Everything that knows about addresses, credentials and pools is here, so that the tier itself only plans
commands and reads replies. A deployment (standalone, sentinel, cluster) is a `ConnectionFactory`: it builds clients and
says where they lead. `redis` costs a third of a second to import, so it is imported when the first client is built.

Two facts shape the time-outs: redis-py's own defaults hold a caller for a minute when a server hangs, and its retries
multiply whatever is set. So one attempt is made, each wait is a quarter of a second, and trying again is left to those
who know what the operation means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import SettingsError, TierError, TierUnavailableError, nearest
from ..keys import printable
from .redis_generations import Generations, agreeting, greeting

__all__ = ["ConnectionFactory", "RedisConnections", "RedisOptions", "tier_error"]

CLIENT_NAME = "novacron_cache"


class RedisOptions(Protocol):
    """What the factory reads from the settings; any object with these attributes will do.

    A password may be plain text or an object with `get_secret_value()`. Time-outs are seconds.
    """

    @property
    def url(self) -> Any:
        """Where the server is."""
        ...

    @property
    def username(self) -> str | None:
        """Who logs in; None is the default user."""
        ...

    @property
    def password(self) -> Any:
        """The password; None where none is asked for."""
        ...

    @property
    def max_connections(self) -> int:
        """How many connections a pool may open."""
        ...

    @property
    def connect_timeout(self) -> float:
        """Seconds that opening a connection may take."""
        ...

    @property
    def socket_timeout(self) -> float:
        """Seconds that an answer may take."""
        ...

    @property
    def tls_ca_file(self) -> Any:
        """Whose certificates are trusted; None is the system's choice."""
        ...

    @property
    def tls_cert_file(self) -> Any:
        """The certificate that the client shows; None shows none."""
        ...

    @property
    def tls_key_file(self) -> Any:
        """The key of that certificate."""
        ...

    @property
    def tls_verify(self) -> bool:
        """Whether the server's certificate is checked."""
        ...


class ConnectionFactory(Protocol):
    """Builds clients for one deployment; the tier needs nothing else to change from standalone to another.

    Clients answer `execute_command` and `pipeline`, and hand replies through as they came, without response callbacks.

    Attributes:
        generations: what each new connection is checked against; the tier sets it before it asks for a client.
    """

    generations: Generations | None

    @property
    def where(self) -> str:
        """The address as it may appear in messages: no credentials."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """Texts that must never appear in a message."""
        ...

    def client(self) -> Any:
        """Return a new blocking client with a pool of its own."""

    def aclient(self) -> Any:
        """Return a new asynchronous client with a pool of its own, for the running loop."""


@dataclass(frozen=True)
class _Endpoint:
    kwargs: dict[str, Any]
    where: str
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def _endpoint(url: str) -> _Endpoint:
    """Split a URL. Whatever is wrong with it, the message must not repeat it: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        username = unquote(parts.username) if parts.username else options.pop("username", None)
        password = unquote(parts.password) if parts.password else options.pop("password", None)
        database = options.pop("db", None)
        if parts.scheme != "unix":
            database = database or parts.path.strip("/")
        db = int(database or 0)
    except ValueError:
        # `from None`: the parser's own message quotes what it could not parse, which may be a piece of the password.
        raise SettingsError(
            "redis.url cannot be parsed (percent-encode special characters in the password; "
            "the database is a number); expected redis://[user:password@]host[:port][/database]",
            variable="redis.url",
        ) from None
    if options:
        name = next(iter(options))
        raise SettingsError(
            f"redis.url: unknown option {name!r}{nearest(name, ('db', 'username', 'password'))}; "
            "time-outs, TLS and pool size are settings of their own (redis.socket_timeout, redis.tls_ca_file, ...)",
            variable="redis.url",
        )
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if not path:
            raise SettingsError("redis.url: unix:// needs the path of a socket", variable="redis.url")
        return _Endpoint({"path": path, "db": db}, f"unix://{path}", False, username, password)
    if parts.scheme not in {"redis", "rediss"}:
        raise SettingsError("redis.url must begin with redis://, rediss:// or unix://", variable="redis.url")
    host = parts.hostname or "localhost"
    port = port or 6379
    shown = f"[{host}]" if ":" in host else host
    return _Endpoint(
        {"host": host, "port": port, "db": db},
        f"{parts.scheme}://{shown}:{port}/{db}",
        parts.scheme == "rediss",
        username,
        password,
    )


def _reveal(value: Any) -> str | None:
    if value is None:
        return None
    get_secret = getattr(value, "get_secret_value", None)
    return str(value if get_secret is None else get_secret())


def preload() -> None:
    """Import the client library now rather than at the first operation.

    That takes about 0.3 s, which no cached call should pay; and a process that forks while another thread is in an
    import leaves the child with a lock that nobody will ever release.
    """
    import encodings.idna  # noqa: F401 - for the names of hosts
    import secrets  # noqa: F401 - for each pool of the library

    import hiredis  # noqa: F401
    import redis.asyncio  # noqa: F401

    from . import redis_async, redis_blocking  # noqa: F401


class RedisConnections:
    """Builds clients for one standalone server, reached over TCP, TLS or a unix socket.

    Args:
        options: the settings; a user name or password there wins over one in the URL.

    Raises:
        SettingsError: the URL is malformed; the message never repeats it.
    """

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._endpoint = _endpoint(_reveal(options.url) or "")
        self._username = options.username or self._endpoint.username
        self._password = _reveal(options.password) or self._endpoint.password
        self.generations: Generations | None = None

    @property
    def where(self) -> str:
        """The address, without credentials."""
        return self._endpoint.where

    @property
    def secrets(self) -> Sequence[str]:
        """The passwords in use."""
        return tuple({text for text in (self._password, self._endpoint.password) if text})

    def client(self) -> Any:
        """Return a new blocking client."""
        import redis
        from redis.retry import Retry

        from .redis_blocking import Pool, TcpConnection, TlsConnection, UnixConnection

        kinds = (TcpConnection, TlsConnection, UnixConnection)
        return self._build(redis, Retry, *kinds, pool=Pool, greet=greeting)

    def aclient(self) -> Any:
        """Return a new asynchronous client."""
        import redis.asyncio
        from redis.asyncio.retry import Retry

        from .redis_async import Pool, TcpConnection, TlsConnection, UnixConnection

        kinds = (TcpConnection, TlsConnection, UnixConnection)
        return self._build(redis.asyncio, Retry, *kinds, pool=Pool, greet=agreeting)

    def _build(
        self, library: Any, retry: Any, tcp: Any, tls: Any, unix: Any, *, pool: Any, greet: Callable[[Generations], Any]
    ) -> Any:
        from redis.backoff import NoBackoff
        from redis.maint_notifications import MaintNotificationsConfig

        options, endpoint = self._options, self._endpoint
        kwargs: dict[str, Any] = {
            **endpoint.kwargs,
            "username": self._username,
            "password": self._password,
            "socket_connect_timeout": options.connect_timeout,
            "socket_timeout": options.socket_timeout,
            "protocol": 3,
            "retry": retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "client_name": CLIENT_NAME,
            # Each step of the greeting is a round trip that may wait its whole time-out: take only those we need.
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        if self.generations is not None:
            kwargs["redis_connect_func"] = greet(self.generations)
        if "path" in endpoint.kwargs:
            kwargs["connection_class"] = unix
        elif endpoint.tls or getattr(options, "tls_on", False):  # the settings may ask for TLS where the URL does not
            kwargs |= {"connection_class": tls, "socket_keepalive": True, **self._tls()}
        else:
            kwargs |= {"connection_class": tcp, "socket_keepalive": True}
        lent = pool(max_connections=options.max_connections, timeout=options.connect_timeout, **kwargs)
        client = library.Redis(connection_pool=lent)
        client.response_callbacks.clear()
        return client

    def _tls(self) -> dict[str, Any]:
        options = self._options
        return {
            "ssl_ca_certs": None if options.tls_ca_file is None else str(options.tls_ca_file),
            "ssl_certfile": None if options.tls_cert_file is None else str(options.tls_cert_file),
            "ssl_keyfile": None if options.tls_key_file is None else str(options.tls_key_file),
            "ssl_cert_reqs": "required" if options.tls_verify else "none",
            "ssl_check_hostname": options.tls_verify,
        }

    def __repr__(self) -> str:
        return f"<RedisConnections {self.where}>"


class _Row(NamedTuple):
    raised: type[BaseException]
    becomes: type[TierError]
    says: str


_CREDENTIALS = "the server refused the credentials; check redis.password (and redis.username)"
_PERMISSION = "the user lacks a permission this cache needs; check the access rules of redis.username"

_TIMEOUT = "no answer in time"
_LOST = "cannot be reached"
_UNTRUSTED = "the server's certificate is not trusted; check redis.tls_ca_file, and the name in redis.url"
_CAUSES = {_TIMEOUT: "timeout", _LOST: "lost", _UNTRUSTED: "lost"}
"""What becomes the `cause` of an error, by what it says."""

# Refusals that redis-py has no class for, by the code they begin with.
_REFUSALS: dict[str, str] = {
    "NOAUTH": _CREDENTIALS,
    "WRONGPASS": _CREDENTIALS,
    "NOPERM": _PERMISSION,
    "OOM": "the server is out of memory",
    "MISCONF": "the server cannot persist and refuses writes",
    "NOREPLICAS": "the server has too few replicas and refuses writes",
    "BUSY": "the server is busy with a script",
    "READONLY": "the server is a replica",
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "the server's master is down",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving these keys",
}


@cache
def _table() -> tuple[_Row, ...]:
    """The one place where foreign exceptions get their names here; the first row that fits counts."""
    from hiredis import HiredisError
    from redis import exceptions as foreign

    gone, refused = TierUnavailableError, TierError
    return (
        _Row(foreign.AuthenticationError, gone, _CREDENTIALS),
        _Row(foreign.AuthenticationWrongNumberOfArgsError, gone, _CREDENTIALS),
        _Row(foreign.NoPermissionError, gone, _PERMISSION),
        _Row(foreign.BusyLoadingError, gone, _REFUSALS["LOADING"]),
        _Row(foreign.OutOfMemoryError, gone, _REFUSALS["OOM"]),
        _Row(foreign.ReadOnlyError, gone, _REFUSALS["READONLY"]),
        _Row(foreign.TryAgainError, gone, _REFUSALS["TRYAGAIN"]),
        _Row(foreign.ClusterDownError, gone, _REFUSALS["CLUSTERDOWN"]),
        _Row(foreign.ClusterError, gone, "the cluster cannot be reached"),
        _Row(foreign.RedisClusterException, gone, "the cluster cannot be reached"),
        _Row(foreign.ChildDeadlockedError, gone, "the pool was locked by a thread that the fork left behind"),
        _Row(foreign.TimeoutError, gone, _TIMEOUT),
        _Row(foreign.ConnectionError, gone, _LOST),
        _Row(foreign.InvalidResponse, gone, "the answer is not of the protocol"),
        _Row(HiredisError, gone, "the answer is not of the protocol"),
        _Row(TimeoutError, gone, _TIMEOUT),
        _Row(BlockingIOError, gone, _TIMEOUT),  # a socket whose time the kernel keeps
        _Row(OSError, gone, _LOST),
        _Row(foreign.ResponseError, refused, "the server refused the command"),
        _Row(Exception, refused, "the client failed"),
    )


_CODE = re.compile(r"(?:.*caused error: )?([A-Z]{2,})\b", re.DOTALL)
_SHOWN = 200


def error_code(error: BaseException) -> str:
    """Return the code with which a server's refusal begins, such as `WRONGTYPE`, or nothing."""
    found = _CODE.match(str(error))
    return found[1] if found else ""


def tier_error(error: BaseException, *, where: str, secrets: Sequence[str] = ()) -> TierError:
    """Return the error of this package for one that a client raised.

    The text of the original follows where it helps and is safe: it never holds keys, values or a secret.

    Args:
        error: what the client raised, or an error reply.
        where: the address for the message.
        secrets: texts to blank out.
    """
    root = error
    # Over a unix socket the asynchronous client wraps a refused greeting in a connection error.
    while type(root).__name__ == "ConnectionError" and type(cause := root.__cause__).__module__ == "redis.exceptions":
        root = cause or root
    row = next(row for row in _table() if isinstance(root, row.raised))
    becomes, says = row.becomes, row.says
    text = str(root)
    if becomes is TierError and (code := _CODE.match(text)) and code[1] in _REFUSALS:
        becomes, says = TierUnavailableError, _REFUSALS[code[1]]
    if says is _LOST and "CERTIFICATE_VERIFY_FAILED" in text:
        says = _UNTRUSTED
    if says in {_CREDENTIALS, _PERMISSION}:
        text = ""  # says nothing more, and may name users
    # A pipeline quotes the whole command before the reason, and an unknown command comes with its arguments.
    text = text.rpartition("caused error: ")[2].partition(", with args")[0]
    for secret in secrets:
        text = text.replace(secret, "***")
    detail = f" ({printable(text[:_SHOWN])})" if text else ""
    message = f"redis at {where}: {says}{detail}"
    if becomes is TierUnavailableError:
        return TierUnavailableError(message, tier="redis", cause=_CAUSES.get(says, ""))
    return becomes(message, tier="redis")
