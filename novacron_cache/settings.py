"""One tree of settings, so that a cache can be read from code or from the environment and a mistake names itself.

Rules. Nothing surprises: constructing `CacheSettings` reads what it is given and nothing else, only `from_env` looks at
the environment. A tier is on when it is told where it lives; `enabled` overrides. Names that do not exist are errors
that suggest the nearest, in code and in the environment alike. Whatever is wrong becomes one `SettingsError` that names
the setting or the variable and never shows a secret: neither in its text nor in its cause.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, cast
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .durations import seconds
from .errors import DeclarationError, SettingsError, nearest

PREFIX: Final = "NOVACRON_CACHE_"
"""What every environment variable of the framework starts with."""

NESTED: Final = "__"
"""What separates the levels in a variable's name."""

HIDDEN: Final = "***"

_SIZE_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/,\[\]]+):([0-9]{1,5})")
_MIN_KEY_BYTES = 16
_LEVELS = {"none": (-7, 22), "zlib": (0, 9), "zstd": (-7, 22), "lz4": (0, 16)}


class _FieldError(ValueError):
    """What a validator over several fields raises: it knows which one the reader has to change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def redact(text: str) -> str:
    """Return a URL or address without its credentials; of a URL that cannot be taken apart, only the scheme is left."""
    scheme, separator, _ = text.partition("://")
    try:
        _ = urlsplit(text).port if separator else None
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    text = re.sub(r"^(\w+://)?.*@", rf"\1{HIDDEN}@", text, count=1, flags=re.DOTALL)
    return re.sub(r"(password=)[^&\s]*", rf"\1{HIDDEN}", text, flags=re.IGNORECASE)


def _seconds(value: Any, info: ValidationInfo) -> float:
    what = info.field_name or "duration"
    try:
        return seconds(value, what=what)
    except DeclarationError as error:
        raise ValueError(str(error).removeprefix(f"{what}={value!r}: ")) from error


def _namespace(value: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        raise ValueError("expected 1 to 64 letters, digits, '_', '.' or '-'")
    return value


def _project() -> str:
    """Return the name of the project directory, made fit for a namespace."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path.cwd().name).strip("-")[:64] or "app"


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not (match := _SIZE.fullmatch(value.strip())):
        raise ValueError("malformed size; expected bytes as a number, or text such as '512kb', '64mb' or '1gb'")
    return int(float(match[1]) * 1024 ** _SIZE_UNITS[(match[2] or "").lower()])


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("malformed JSON list; expected [...] or comma separated text") from None
    return [part.strip() for part in value.split(",") if part.strip()]


def _address(value: str) -> str:
    value = value.strip()
    if not (match := _ADDRESS.fullmatch(value)) or not 0 < int(match[1]) < 65536:
        raise ValueError("expected host:port, such as 'redis-1:6379' or '[::1]:6379'")
    return value


def _url(value: str) -> str:
    value = value.strip()
    try:
        parts = urlsplit(value)
        complete = parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
    except ValueError:  # its text may quote the password
        raise ValueError("malformed URL; expected redis://[[user]:password@]host:port[/db]") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("expected a URL that starts with redis://, rediss:// or unix://")
    if not complete:
        raise ValueError("the URL does not say where the server is; expected redis://host:port or unix:///path")
    if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
        raise ValueError("the URL's path must be a database number, as in redis://host:6379/0")
    return value


def _policy(value: Any) -> str | type[Any]:
    import cachetools  # only who names a policy pays for it

    classes = {
        name: found
        for name, found in vars(cachetools).items()
        if isinstance(found, type) and issubclass(found, cachetools.Cache) and not name.startswith("_")
    }
    if isinstance(value, str):
        if value.lower() in ("s3fifo", "lru"):
            return value.lower()
        by_name = {name.casefold(): found for name, found in classes.items()}
        chosen = by_name.get(value.casefold()) or by_name.get(f"{value.casefold()}cache")
        if chosen is None:
            known = ["s3fifo", "lru", *classes]
            raise ValueError(f"unknown policy{nearest(value, known)}; expected one of {', '.join(known)}")
        value = chosen
    if not (isinstance(value, type) and issubclass(value, cachetools.Cache)):
        raise ValueError("expected 's3fifo', 'lru', or a subclass of cachetools.Cache or its name")
    return value


def _policy_name(value: str | type[Any]) -> str:
    return value if isinstance(value, str) else value.__name__


def _level(value: Any) -> Any:
    lowered = value.strip().lower() if isinstance(value, str) else value
    return "warning" if lowered == "warn" else lowered


def _key(value: SecretBytes) -> SecretBytes:
    if len(value) < _MIN_KEY_BYTES:
        raise ValueError(f"a signing key has at least {_MIN_KEY_BYTES} bytes")
    return value


def _home(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str | os.PathLike) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration: whatever `durations.seconds` accepts, kept as float seconds."""

Positive = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A duration longer than zero, kept as float seconds."""

Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""Bytes as a number, or text such as "512mb"; the units are powers of 1024."""

Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], BeforeValidator(_listed)]
Url = Annotated[str, AfterValidator(_url), PlainSerializer(redact, when_used="json")]
Policy = Annotated[str | type[Any], PlainValidator(_policy), PlainSerializer(_policy_name, when_used="json")]
FilePath = Annotated[Path, BeforeValidator(_home)]
Port = Annotated[int, Field(ge=0, le=65535)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
TierName = Literal["memory", "redis", "disk"]


def _setting(default: Any, meaning: str, example: str, **limits: Any) -> Any:
    return Field(default, description=meaning, examples=[example], **limits)


class Section(BaseModel):
    """What the parts of the tree have in common: frozen, no unknown names, readable errors, no secret in a repr."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        _checked(super().__init__, type(self), values)

    # Inside a tree pydantic validates a section itself and keeps the whole path in the error. The subclasses repeat
    # the signature for type checkers, which would otherwise refuse "30s" where a float is kept.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # a mark that pydantic reads

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if name == "url" and isinstance(value, str) else value


class MemorySettings(Section):
    """L1: live objects in this process."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    enabled: bool = _setting(True, "Whether L1 is used.", "false")
    max_items: int = _setting(10_000, "How many entries it holds at most.", "50000", gt=0)
    max_bytes: Size | None = _setting(None, "How many bytes it holds at most; by default only items count.", "256mb")
    ttl: Positive = _setting(300.0, "The longest an entry stays, whatever its own ttl.", "1m")
    cleanup_interval: Positive = _setting(30.0, "How often expired entries are swept.", "10s")
    policy: Policy = _setting("s3fifo", "What is evicted: s3fifo, lru, or a cachetools class or its name.", "LFUCache")


class RedisSettings(Section):
    """L2: a Redis or Valkey server, shared between processes."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    enabled: bool | None = _setting(None, "Whether L2 is used; by default when it is told where it lives.", "false")
    mode: Literal["standalone", "sentinel", "cluster", "embedded"] = _setting(
        "standalone", "How the servers are arranged; embedded starts one for development.", "embedded"
    )
    url: Url | None = _setting(None, "Where the server is: redis://, rediss:// or unix://.", "redis://cache:6379/0")
    addresses: Addresses = _setting((), "host:port of the sentinels or cluster nodes.", "node-1:7001,node-2:7002")
    replica_addresses: Addresses = _setting((), "host:port of known replicas, for health views.", "replica-1:6380")
    sentinel_master: str | None = _setting(None, "The name by which the sentinels know the master.", "mymaster")
    username: str | None = _setting(None, "The user to log in as.", "shop")
    password: SecretStr | None = _setting(None, "The password to log in with.", "a-long-password")
    tls: bool | None = _setting(None, "Whether to use TLS; by default with rediss:// or a TLS file.", "true")
    tls_ca_file: FilePath | None = _setting(None, "The authorities to trust.", "/etc/tls/ca.pem")
    tls_cert_file: FilePath | None = _setting(None, "The client's certificate.", "/etc/tls/cert.pem")
    tls_key_file: FilePath | None = _setting(None, "The client's key.", "/etc/tls/key.pem")
    tls_verify: bool = _setting(True, "Whether the server's certificate is verified.", "false")
    max_connections: int = _setting(100, "The size of the connection pool.", "20", gt=0)
    connect_timeout: Positive = _setting(0.25, "The longest a connection may take to open.", "500ms")
    socket_timeout: Positive = _setting(0.25, "The longest a reply may take.", "500ms")
    ttl: Positive = _setting(900.0, "The longest an entry stays, whatever its own ttl.", "1h")

    @property
    def located(self) -> bool:
        """Whether anything says where the server is."""
        return bool(self.url or self.addresses or self.mode == "embedded")

    @property
    def on(self) -> bool:
        """Whether the tier is used."""
        return self.located if self.enabled is None else self.enabled

    @property
    def tls_on(self) -> bool:
        """Whether connections use TLS."""
        if self.tls is not None:
            return self.tls
        return bool((self.url or "").startswith("rediss:") or self.tls_ca_file or self.tls_cert_file)

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """The addresses as (host, port) pairs."""
        pairs = (address.rpartition(":") for address in self.addresses)
        return [(host.strip("[]"), int(port)) for host, _, port in pairs]

    @model_validator(mode="after")
    def _consistent(self) -> RedisSettings:
        url, mode = self.url or "", self.mode
        if self.password and (
            ":" in urlsplit(url).netloc.rpartition("@")[0] or "password" in parse_qs(urlsplit(url).query)
        ):
            raise _FieldError("password", "the URL has a password already; keep one of the two")
        if self.tls is False and url.startswith("rediss:"):
            raise _FieldError("tls", "the URL starts with rediss://, which means TLS")
        if self.tls_key_file and not self.tls_cert_file:
            raise _FieldError("tls_key_file", "a key needs tls_cert_file beside it")
        if self.sentinel_master and mode != "sentinel":
            raise _FieldError("sentinel_master", "only mode 'sentinel' has one; set mode to 'sentinel'")
        if mode == "embedded" and (url or self.addresses):
            raise _FieldError("mode", "'embedded' starts its own server; leave out url and addresses")
        if mode == "standalone" and self.addresses:
            raise _FieldError("addresses", "mode 'standalone' takes a url; set mode to 'sentinel' or 'cluster'")
        if mode == "sentinel" and url:
            raise _FieldError("url", "mode 'sentinel' finds the master itself; name the sentinels in addresses")
        if mode == "cluster" and url.startswith("unix:"):
            raise _FieldError("url", "mode 'cluster' needs TCP; expected redis:// or rediss://")
        if self.enabled is not False:
            self._reachable()
        return self

    def _reachable(self) -> None:
        if self.mode == "sentinel" and not self.addresses:
            raise _FieldError("addresses", "mode 'sentinel' needs the host:port of the sentinels")
        if self.mode == "sentinel" and not self.sentinel_master:
            raise _FieldError("sentinel_master", "mode 'sentinel' needs the name of the master, such as 'mymaster'")
        if self.mode == "cluster" and not self.located:
            raise _FieldError("addresses", "mode 'cluster' needs the host:port of some nodes, or a url")
        if self.enabled and not self.located:
            raise _FieldError("enabled", "on, but with nothing to connect to: set redis.url, or mode 'embedded'")


class DiskSettings(Section):
    """L3: a file on this machine, which survives restarts."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    enabled: bool | None = _setting(None, "Whether L3 is used; by default when it has a path.", "false")
    path: FilePath | None = _setting(None, "The directory it lives in.", "/var/cache/shop")
    size_limit: Size = _setting(2**30, "How many bytes it holds at most.", "512mb")
    ttl: Positive = _setting(86_400.0, "The longest an entry stays, whatever its own ttl.", "7d")

    @property
    def on(self) -> bool:
        """Whether the tier is used."""
        return self.path is not None if self.enabled is None else self.enabled

    @model_validator(mode="after")
    def _consistent(self) -> DiskSettings:
        if self.enabled and self.path is None:
            raise _FieldError("enabled", "on, but with nowhere to live: set disk.path")
        return self


class MonitorSettings(Section):
    """What the monitor serves; the application itself serves nothing unless it is asked to."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    metrics_port: Port = _setting(9091, "The port of health and metrics; zero takes a free one.", "9100")
    webui_port: Port = _setting(8082, "The port of the dashboard; zero takes a free one.", "8090")
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)] = _setting(
        "info", "What the command line logs.", "debug"
    )
    health_check_interval: Positive = _setting(30.0, "How often tiers and servers are checked.", "10s")


class ModelOptions(Section):
    """What one model or function does differently here; None leaves what was declared."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    ttl: Positive | None = _setting(None, "How long its values live.", "5s")
    tags: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = _setting(
        None, "Its tag templates.", "vm:<vm_id>"
    )
    grace: Seconds | None = _setting(None, "How long past its ttl a value may stand in for a failing loader.", "1m")
    refresh_ahead: Fraction | None = _setting(
        None, "The fraction of its ttl after which a hit refreshes it in the background; zero never.", "0.8"
    )
    jitter: Fraction | None = _setting(None, "The fraction by which its ttl is shortened at random.", "0.1")
    tiers: Annotated[tuple[TierName, ...], BeforeValidator(_listed), Field(min_length=1)] | None = _setting(
        None, "The tiers it may be stored in.", "memory,redis"
    )
    negative_ttl: Seconds | None = _setting(None, 'How long "not found" is remembered; zero never.', "2s")


class CacheSettings(BaseSettings):
    """Everything a cache can be told.

    Constructing it reads the arguments alone: sections are given as mappings or as their classes, durations in any
    form `durations.seconds` accepts, sizes as bytes or text. `from_env` reads the environment instead.

    Raises:
        SettingsError: a setting is wrong, unknown, or needs another one; the message names it.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, case_sensitive=True,
        env_prefix=PREFIX, env_nested_delimiter=NESTED,
    )  # fmt: skip

    namespace: Annotated[str, AfterValidator(_namespace)] | None = _setting(
        None, "What keeps two applications apart in a shared tier; 1-64 letters, digits, `_`, `.` or `-`.", "shop"
    )
    default_ttl: Positive = _setting(900.0, "How long a value lives when nothing else says so.", "5m")
    serialization: Literal["json", "msgpack", "pickle"] = _setting(
        "json", "How values are written; pickle only together with signing_keys.", "msgpack"
    )
    compression: Literal["none", "zlib", "zstd", "lz4"] = _setting("none", "How payloads are compressed.", "zstd")
    compression_level: int = _setting(6, "How hard the compressor tries; the range depends on it.", "3")
    compression_min_bytes: Annotated[int, BeforeValidator(_size)] = _setting(
        1024, "Payloads shorter than this stay as they are.", "4kb", ge=0
    )
    max_decoded_bytes: Size = _setting(
        64 * 2**20, "Longer payloads are refused, even when they arrive compressed.", "8mb"
    )
    signing_keys: Annotated[tuple[Annotated[SecretBytes, AfterValidator(_key)], ...], BeforeValidator(_listed)] = (
        _setting(
            (), "Keys that payloads are signed with: the first signs, all verify.", "new-16-byte-key-,old-16-byte-key-"
        )
    )
    enable_metrics: bool = _setting(True, "Whether hits, misses and latencies are counted.", "false")
    on_outage: Literal["load", "serve"] = _setting(
        "load",
        "With L2 unreachable: load and stay within staleness_bound, or serve L1 and L3 within their ttl.",
        "serve",
    )
    background_threads: int = _setting(
        0, "Threads in which synchronous functions refresh ahead; zero leaves that to asynchronous ones.", "4", ge=0
    )
    staleness_bound: Positive = _setting(3.0, "The longest a process may miss a foreign invalidation.", "1s")
    memory: MemorySettings = Field(default_factory=MemorySettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    disk: DiskSettings = Field(default_factory=DiskSettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    models: dict[str, ModelOptions] = Field(
        {}, description="Options by model or function name; they override the declared."
    )

    def __init__(self, **values: Any) -> None:
        # BaseSettings gives names with an underscore a meaning of its own; here they are unknown settings.
        if odd := [name for name in values if name.startswith("_")]:
            raise SettingsError(f"{odd[0]}: unknown setting", variable=odd[0])
        _checked(super().__init__, type(self), values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but the arguments."""
        return (init_settings,)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> CacheSettings:
        """Return the settings that the environment describes; `ENVIRONMENT` lists every variable.

        Args:
            environ: the variables; None takes those of the process. Empty ones count as unset.

        Raises:
            SettingsError: a variable is unknown or its value is wrong; the message names the variable.
        """
        tree, origins = _read(os.environ if environ is None else environ)
        try:
            return cls(**tree)
        except SettingsError as error:
            cause = error.__cause__
            if not isinstance(cause, ValidationError):
                raise
        raise _problem(cls, cause, origins)

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        namespace: str | None = None,
        disk: str | os.PathLike[str] | None = None,
        **more: Any,
    ) -> CacheSettings:
        """Return settings from the three things most applications have to say.

        Args:
            url: where L2 is; None leaves it off unless `more` turns it on.
            namespace: what keeps this application's entries apart; needed with L2 or L3.
            disk: the directory of L3; None leaves it off unless `more` turns it on.
            more: any other setting; `redis` and `disk` sections are merged with the above.

        Raises:
            SettingsError: as for the constructor.
        """
        for section, field, value in (("redis", "url", url), ("disk", "path", disk)):
            if value is not None:
                given = more.get(section, {})
                more[section] = {
                    **(given.model_dump(exclude_unset=True) if isinstance(given, Section) else given),
                    field: value,
                }
        return cls(namespace=namespace, **more)

    @property
    def memory_on(self) -> bool:
        """Whether L1 is used."""
        return self.memory.enabled

    @property
    def redis_on(self) -> bool:
        """Whether L2 is used."""
        return self.redis.on

    @property
    def disk_on(self) -> bool:
        """Whether L3 is used."""
        return self.disk.on

    def options_for(self, name: str) -> ModelOptions:
        """Return the options of a model or function by its name; case decides only where two names differ by it."""
        if name in self.models:
            return self.models[name]
        folded = name.casefold()
        return next((found for known, found in self.models.items() if known.casefold() == folded), ModelOptions())

    @model_validator(mode="after")
    def _consistent(self) -> CacheSettings:
        if self.serialization == "pickle" and not self.signing_keys:
            raise _FieldError("serialization", "'pickle' runs code when it is read; set signing_keys too")
        lowest, highest = _LEVELS[self.compression]
        if not lowest <= self.compression_level <= highest:
            raise _FieldError("compression_level", f"{self.compression} takes {lowest} to {highest}")
        if self.namespace is None and self.redis_on and self.redis.mode == "embedded":
            # A validator is the one place that may still complete a frozen instance.
            object.__setattr__(self, "namespace", _project())
        if self.namespace is None and (self.redis_on or self.disk_on):
            shared = "redis" if self.redis_on else "disk"
            raise _FieldError(
                "namespace",
                f"not set, and the {shared} tier is shared: without one, two applications could read each other's "
                f"entries; pass namespace='my-app' or set {PREFIX}NAMESPACE=my-app",
            )
        return self


class Variable(NamedTuple):
    """One row of the table of environment variables.

    Attributes:
        name: the variable; `<name>` in it stands for the name of a model or function.
        sets: the setting, as a dotted path.
        example: a value it may have.
    """

    name: str
    sets: str
    example: str


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the class of the section that a field holds; for `models` it is the class of each of its values."""
    kind: object = None if field is None else field.annotation
    if kind == dict[str, ModelOptions]:
        return ModelOptions
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _rows(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Variable]:
    for name, field in kind.model_fields.items():
        here = (*path, name)
        if section := _section(field):
            yield from _rows(section, (*here, "<name>") if name == "models" else here)
        else:
            yield Variable(_variable(here), ".".join(here), str((field.examples or [""])[0]))


def _variable(path: tuple[str, ...]) -> str:
    parts = (part if place == 1 and path[0] == "models" else part.upper() for place, part in enumerate(path))
    return PREFIX + NESTED.join(parts)


_GENERIC: Final = (
    Variable("REDIS_MASTER_ADDR", "redis.url", "redis-master:6379"),
    Variable("REDIS_SLAVE_ADDRS", "redis.replica_addresses", "redis-replica-1:6380,redis-replica-2:6381"),
    Variable("SENTINEL_ADDRS", "redis.addresses", "sentinel-1:26379,sentinel-2:26379,sentinel-3:26379"),
    Variable("SENTINEL_MASTER_NAME", "redis.sentinel_master", "mymaster"),
    Variable("METRICS_PORT", "monitor.metrics_port", "9100"),
    Variable("WEBUI_PORT", "monitor.webui_port", "8090"),
    Variable("LOG_LEVEL", "monitor.log_level", "debug"),
    Variable("HEALTH_CHECK_INTERVAL", "monitor.health_check_interval", "10s"),
)

ENVIRONMENT: Final[tuple[Variable, ...]] = (*_rows(CacheSettings), *_GENERIC)
"""Every variable that `CacheSettings.from_env` reads."""


class _Origin(NamedTuple):
    """Where a value came from: its variable, and the variable's text unless nobody may see it."""

    variable: str
    text: str | None


_Origins = dict[tuple[str, ...], _Origin]


def _read(environ: Mapping[str, str]) -> tuple[dict[str, Any], _Origins]:
    """Return the tree that the variables describe, and the origin of each of its values."""
    tree: dict[str, Any] = {}
    origins: _Origins = {}
    ours = (name for name in environ if name.upper().startswith(PREFIX) and environ[name])
    for name in sorted(ours, key=lambda name: name.count(NESTED)):  # whole sections before what refines them
        path, is_section = _path(name[len(PREFIX) :])
        value = _object(name, environ[name]) if is_section else environ[name]
        _put(tree, path, value)
        origins[path] = _Origin(name, None if is_section else environ[name])
    for path, name, text in _generic(environ, tree.get("redis", {})):
        if text and not _has(tree, path):
            _put(tree, path, text)
            origins[path] = _Origin(name, environ[name])
    return tree, origins


def _path(suffix: str) -> tuple[tuple[str, ...], bool]:
    """Return the path that a variable names, and whether a whole section is there."""
    kind: type[BaseModel] | None = CacheSettings
    path: tuple[str, ...] = ()
    for part in suffix.split(NESTED):
        if path == ("models",):  # the names of models keep their case
            path = ("models", part)
        elif kind is None:  # deeper than the tree: an unknown setting, and reported as such
            return (suffix.lower(),), False
        else:
            path = (*path, part.lower())
            kind = _section(kind.model_fields.get(part.lower()))
    return path, kind is not None


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SettingsError(f"{name}: expected a JSON object; one setting of it is {name}{NESTED}...", variable=name)
    return value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _generic(environ: Mapping[str, str], redis: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield (path, variable, value) for the generic variables that apply beside what `redis` says already."""
    located = bool(redis.get("url") or redis.get("addresses"))
    mode = redis.get("mode")
    if mode is None and not located and environ.get("SENTINEL_ADDRS"):
        mode = "sentinel"
        yield ("redis", "mode"), "SENTINEL_ADDRS", mode
    master = environ.get("REDIS_MASTER_ADDR")
    for name, sets, _ in _GENERIC:
        text = environ.get(name, "")
        if name.startswith("SENTINEL_") and mode != "sentinel":
            continue
        if name == "REDIS_MASTER_ADDR":
            if located or not master or mode in ("sentinel", "embedded"):
                continue
            text = f"redis://{master}"
        yield tuple(sets.split(".")), name, text


def _checked(make: Callable[..., None], kind: type[BaseModel], values: dict[str, Any]) -> None:
    try:
        make(**values)
        return
    except ValidationError as error:
        problem = _problem(kind, error)
    # Raised out here, lest the original, which holds the values as they were given, stays on as its context.
    raise problem


def _problem(kind: type[BaseModel], error: ValidationError, origins: _Origins | None = None) -> SettingsError:
    """Return the error to raise instead: it names what is wrong, and nothing in it holds a secret."""
    lines: list[str] = []
    causes: list[InitErrorDetails] = []
    variable = ""
    for found in error.errors(include_url=False):
        wrong = found.get("ctx", {}).get("error")
        path = (*found["loc"], wrong.field) if isinstance(wrong, _FieldError) else found["loc"]
        names = tuple(str(part) for part in path)
        section, field = _field(kind, names)
        if origins is None:
            variable = label = ".".join(names)
            shown = _shown(found["input"], field)
        else:
            variable, label, shown = _source(names, field, origins)
        reason = found["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if found["type"] == "extra_forbidden":
            alone = origins is not None and label == variable
            near = _nearest_variable(names, section) if alone else nearest(names[-1], section.model_fields)
            reason = f"unknown setting{near}"
        lines.append(f"{label}={shown}: {reason}" if shown else f"{label}: {reason}")
        details = PydanticCustomError(cast("Any", found["type"]), "{reason}", {"reason": reason})
        causes.append(InitErrorDetails(type=details, loc=path, input=shown or HIDDEN))
    message = lines[0] if len(lines) == 1 else f"{len(lines)} settings are wrong:\n  " + "\n  ".join(lines)
    problem = SettingsError(message, variable=variable if len(lines) == 1 else None)
    problem.__cause__ = ValidationError.from_exception_data(kind.__name__, causes, hide_input=True)
    return problem


def _field(kind: type[BaseModel], path: tuple[str, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the section in which a path ends and the field it names there; None for a name that does not exist."""
    field: FieldInfo | None = None
    parts = iter(path)
    for part in parts:
        field = kind.model_fields.get(part)
        if not (inner := _section(field)):
            break
        if inner is ModelOptions:
            next(parts, None)
        kind = inner
    return kind, field


def _shown(value: Any, field: FieldInfo | None) -> str | None:
    """Return a value as an error may quote it; None for secrets, sections, and names that may be misspelt secrets."""
    if field is None or _section(field) or "Secret" in str(field.annotation):
        return None
    if isinstance(value, str):
        return repr(redact(value))
    return repr(value) if isinstance(value, int | float | timedelta) else None


def _source(names: tuple[str, ...], field: FieldInfo | None, origins: _Origins) -> tuple[str, str, str | None]:
    """Return the variable behind a path, how to call it in a message, and its text where it may be quoted."""
    for end in range(len(names), 0, -1):
        if origin := origins.get(names[:end]):
            if origin.text is None and names[end:]:
                return origin.variable, f"{origin.variable} ({'.'.join(names[end:])})", None
            return origin.variable, origin.variable, _shown(origin.text, field)
    return _variable(names), _variable(names), None


def _nearest_variable(names: tuple[str, ...], section: type[BaseModel]) -> str:
    known = set(section.model_fields)
    if len(names) == 1:  # whoever forgot the section's name finds it here
        known |= {row.sets.replace(".", NESTED) for row in ENVIRONMENT}
    near = nearest(names[-1], known)
    return re.sub(r"'(\w+)'", lambda match: repr(_variable((*names[:-1], match[1]))), near)
