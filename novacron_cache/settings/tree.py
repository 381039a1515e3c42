"""The tree itself: every setting with its type, its default, its meaning and an example, stated once and here.

Whatever else speaks of settings (the table of variables, the messages, the documentation) is derived from these fields.
A rule that ties several settings together stands with the section that holds them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ..errors import SettingsError
from .environment import GENERIC, NESTED, PREFIX, Variable, read, rows
from .problems import FieldError, checked, problem_of
from .values import (
    Addresses,
    ByteCount,
    FilePath,
    Fraction,
    LogLevel,
    Names,
    Namespace,
    Policy,
    Port,
    Positive,
    Seconds,
    Serialization,
    Share,
    SigningKeys,
    Size,
    SwitchInterval,
    TierNames,
    Url,
    project_namespace,
    redact,
)

_LEVELS = {"none": (-7, 22), "zlib": (0, 9), "zstd": (-7, 22), "lz4": (0, 16)}


def _setting(default: Any, meaning: str, example: str, **limits: Any) -> Any:
    return Field(default, description=meaning, examples=[example], **limits)


class Section(BaseModel):
    """What the parts of the tree have in common: frozen, no unknown names, readable errors, no secret in a repr."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        checked(super().__init__, type(self), values)

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
    state_directory: FilePath | None = _setting(
        None, "Where the embedded server is shared; by default a place for the current directory.", "/run/shop"
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
            raise FieldError("password", "the URL has a password already; keep one of the two")
        if self.tls is False and url.startswith("rediss:"):
            raise FieldError("tls", "the URL starts with rediss://, which means TLS")
        if self.tls_key_file and not self.tls_cert_file:
            raise FieldError("tls_key_file", "a key needs tls_cert_file beside it")
        if self.sentinel_master and mode != "sentinel":
            raise FieldError("sentinel_master", "only mode 'sentinel' has one; set mode to 'sentinel'")
        if self.state_directory and mode != "embedded":
            raise FieldError("state_directory", "only mode 'embedded' has one; set mode to 'embedded'")
        if mode == "embedded" and (url or self.addresses):
            raise FieldError("mode", "'embedded' starts its own server; leave out url and addresses")
        if mode == "standalone" and self.addresses:
            raise FieldError("addresses", "mode 'standalone' takes a url; set mode to 'sentinel' or 'cluster'")
        if mode == "sentinel" and url:
            raise FieldError("url", "mode 'sentinel' finds the master itself; name the sentinels in addresses")
        if mode == "cluster" and url.startswith("unix:"):
            raise FieldError("url", "mode 'cluster' needs TCP; expected redis:// or rediss://")
        if self.enabled is not False:
            self._reachable()
        return self

    def _reachable(self) -> None:
        if self.mode == "sentinel" and not self.addresses:
            raise FieldError("addresses", "mode 'sentinel' needs the host:port of the sentinels")
        if self.mode == "sentinel" and not self.sentinel_master:
            raise FieldError("sentinel_master", "mode 'sentinel' needs the name of the master, such as 'mymaster'")
        if self.mode == "cluster" and not self.located:
            raise FieldError("addresses", "mode 'cluster' needs the host:port of some nodes, or a url")
        if self.enabled and not self.located:
            raise FieldError("enabled", "on, but with nothing to connect to: set redis.url, or mode 'embedded'")


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
            raise FieldError("enabled", "on, but with nowhere to live: set disk.path")
        return self


class MonitorSettings(Section):
    """What the monitor serves; the application itself serves nothing unless it is asked to."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    host: str = _setting("127.0.0.1", "The address to listen on; any but this machine's own needs a token.", "10.0.0.7")
    metrics_port: Port = _setting(9091, "The port of health and metrics; zero takes a free one.", "9100")
    webui_port: Port = _setting(8082, "The port of the dashboard; zero takes a free one.", "8090")
    log_level: LogLevel = _setting("info", "What the command line logs.", "debug")
    health_check_interval: Positive = _setting(30.0, "How often tiers and servers are checked.", "10s")
    token: SecretStr | None = _setting(None, "What `Authorization: Bearer` has to hold.", "a-token-of-16-or-more")
    allow: Names = _setting((), "Addresses or networks that are answered; by default this machine.", "10.0.0.0/8")
    hosts: Names = _setting((), "Names under which it is asked, beside this machine's.", "cache-monitor")
    publish_interval: Seconds = _setting(
        1.0, "How often a process publishes its figures while a monitor watches; zero never.", "5s"
    )
    directory: FilePath | None = _setting(
        None, "Where processes of one machine sum their figures, as workers of a server.", "/run/shop/metrics"
    )
    max_models: int = _setting(200, "How many models and functions have a label of their own.", "50", gt=0)
    webhook_url: SecretStr | None = _setting(None, "Where the monitor sends alerts.", "https://ops.example/hooks/cache")
    webhook_secret: SecretStr | None = _setting(None, "What it signs them with.", "a-long-secret")


class ModelOptions(Section):
    """What one model or function does differently here; None leaves what was declared."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    ttl: Positive | None = _setting(None, "How long its values live.", "5s")
    tags: Names | None = _setting(None, "Its tag templates.", "vm:<vm_id>")
    grace: Seconds | None = _setting(None, "How long past its ttl a value may stand in for a failing loader.", "1m")
    refresh_ahead: Fraction | None = _setting(
        None, "The fraction of its ttl after which a hit refreshes it in the background; zero never.", "0.8"
    )
    jitter: Fraction | None = _setting(None, "The fraction by which its ttl is shortened at random.", "0.1")
    tiers: TierNames | None = _setting(None, "The tiers it may be stored in.", "memory,redis")
    negative_ttl: Seconds | None = _setting(None, 'How long "not found" is remembered; zero never.', "2s")
    soft_timeout: Positive | None = _setting(
        None, "After how long a value in its grace answers for a load that goes on.", "200ms"
    )
    hard_timeout: Positive | None = _setting(None, "How long a load may take.", "2s")
    max_concurrent_loads: int | None = _setting(None, "How many of its loads may run at once in a process.", "8", ge=1)
    shadow: Share | None = _setting(
        None, "The fraction of calls in which the cache is tried without answering; zero has it answer.", "0.1"
    )


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

    namespace: Namespace | None = _setting(
        None, "What keeps two applications apart in a shared tier; 1-64 letters, digits, `_`, `.` or `-`.", "shop"
    )
    default_ttl: Positive = _setting(900.0, "How long a value lives when nothing else says so.", "5m")
    serialization: Serialization = _setting(
        "json",
        "How values are written: json, msgpack, pickle together with signing_keys, or where a codec of your own is.",
        "msgpack",
    )
    compression: Literal["none", "zlib", "zstd", "lz4"] = _setting("none", "How payloads are compressed.", "zstd")
    compression_level: int = _setting(6, "How hard the compressor tries; the range depends on it.", "3")
    compression_min_bytes: ByteCount = _setting(1024, "Payloads shorter than this stay as they are.", "4kb")
    compression_dictionaries: bool = _setting(
        False, "Whether zstd uses the dictionaries that were trained for models, on payloads of any length.", "true"
    )
    max_decoded_bytes: Size = _setting(
        64 * 2**20, "Longer payloads are refused, even when they arrive compressed.", "8mb"
    )
    signing_keys: SigningKeys = _setting(
        (), "Keys that payloads are signed with: the first signs, all verify.", "new-16-byte-key-,old-16-byte-key-"
    )
    enable_metrics: bool = _setting(True, "Whether hits, misses and latencies are counted.", "false")
    enable_tracing: bool = _setting(
        False, "Whether OpenTelemetry gets spans of what goes beyond process memory.", "true"
    )
    trace_keys: bool = _setting(False, "Whether spans name keys, and loaders' errors with their text.", "true")
    on_outage: Literal["load", "serve"] = _setting(
        "load",
        "With L2 unreachable: load and stay within staleness_bound, or serve L1 and L3 within their ttl.",
        "serve",
    )
    background_threads: int = _setting(
        0, "Threads in which synchronous functions refresh ahead and are left behind by time-outs.", "4", ge=0
    )
    shadow: Share = _setting(
        0.0, "Shadow mode: the fraction of calls in which the cache is tried, and never answers; zero is off.", "1"
    )
    staleness_bound: Positive = _setting(3.0, "The longest a process may miss a foreign invalidation.", "1s")
    switch_interval: SwitchInterval | None = _setting(
        None, "The interpreter's switch interval while a link to a server runs, at most; by default untouched.", "0.5ms"
    )
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
        checked(super().__init__, type(self), values)

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
        tree, origins = read(cls, os.environ if environ is None else environ)
        try:
            return cls(**tree)
        except SettingsError as error:
            cause = error.__cause__
            if not isinstance(cause, ValidationError):
                raise
        raise problem_of(cls, cause, origins)

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
            raise FieldError("serialization", "'pickle' runs code when it is read; set signing_keys too")
        lowest, highest = _LEVELS[self.compression]
        if not lowest <= self.compression_level <= highest:
            raise FieldError("compression_level", f"{self.compression} takes {lowest} to {highest}")
        if self.compression_dictionaries and self.compression != "zstd":
            raise FieldError("compression_dictionaries", "only 'zstd' has dictionaries; set compression to 'zstd'")
        if self.namespace is None and self.redis_on and self.redis.mode == "embedded":
            # A validator is the one place that may still complete a frozen instance.
            object.__setattr__(self, "namespace", project_namespace())
        if self.namespace is None and (self.redis_on or self.disk_on):
            shared = "redis" if self.redis_on else "disk"
            raise FieldError(
                "namespace",
                f"not set, and the {shared} tier is shared: without one, two applications could read each other's "
                f"entries; pass namespace='my-app' or set {PREFIX}NAMESPACE=my-app",
            )
        return self


ENVIRONMENT: Final[tuple[Variable, ...]] = (*rows(CacheSettings), *GENERIC)
"""Every variable that `CacheSettings.from_env` reads."""
