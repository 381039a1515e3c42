"""What a single setting may be: types that take what people write and keep what the program needs.

Text is all that an environment has to give, so every type takes text beside its own kind. A validator says what would
have been accepted and leaves it to others whether the value may be shown: it may be a secret, or hold one.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretBytes,
    ValidationInfo,
)

from ..durations import seconds
from ..errors import DeclarationError, nearest

HIDDEN: Final = "***"
"""What stands where a secret was."""

_SIZE_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/,\[\]]+):([0-9]{1,5})")
_MIN_KEY_BYTES = 16
_SHORTEST_SWITCH, _LONGEST_SWITCH = 0.000_01, 1.0
_PLACE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

CODECS: Final = ("json", "msgpack", "pickle")
"""The codecs of the package."""


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


def _switch_interval(value: float) -> float:
    # Shorter ones have threads do nothing but take turns; at zero, none would ever compute.
    if not _SHORTEST_SWITCH <= value <= _LONGEST_SWITCH:
        raise ValueError("expected a duration between '0.01ms' and '1s'")
    return value


def _namespace(value: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        raise ValueError("expected 1 to 64 letters, digits, '_', '.' or '-'")
    return value


def project_namespace() -> str:
    """Return the name of the project directory, made fit for a namespace."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path.cwd().name).strip("-")[:64] or "app"


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not (match := _SIZE.fullmatch(value.strip())):
        raise ValueError("malformed size; expected bytes as a number, or text such as '512kb', '64mb' or '1gb'")
    size = float(match[1]) * 1024 ** _SIZE_UNITS[(match[2] or "").lower()]
    if not size < 2**63:
        raise ValueError("no machine has so many bytes; expected text such as '512kb', '64mb' or '1gb'")
    return int(size)


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
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


def _serialization(value: str) -> str:
    if value not in CODECS and not _PLACE.fullmatch(value):
        known = ", ".join(map(repr, CODECS))
        raise ValueError(
            f"expected {known}, or the place of a codec of your own, such as 'shop.codecs:PLIST'"
            f"{nearest(value, CODECS)}"
        )
    return value


def _home(value: Any) -> Any:
    try:
        return Path(value).expanduser() if isinstance(value, str | os.PathLike) else value
    except RuntimeError:  # there is no such user, or one whom the system does not know, as in containers
        raise ValueError("the home directory that it names cannot be found; write the whole path") from None


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration: whatever `durations.seconds` accepts, kept as float seconds."""

Positive = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A duration longer than zero, kept as float seconds."""

SwitchInterval = Annotated[float, BeforeValidator(_seconds), AfterValidator(_switch_interval)]
"""A duration that can be the interpreter's switch interval, kept as float seconds."""

Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""Bytes as a number, or text such as "512mb"; the units are powers of 1024."""

ByteCount = Annotated[int, Field(ge=0), BeforeValidator(_size)]
"""What `Size` is, zero included."""

Namespace = Annotated[str, AfterValidator(_namespace)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
SigningKeys = Annotated[tuple[Annotated[SecretBytes, AfterValidator(_key)], ...], BeforeValidator(_listed)]
Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], BeforeValidator(_listed)]
Url = Annotated[str, AfterValidator(_url), PlainSerializer(redact, when_used="json")]
Policy = Annotated[str | type[Any], PlainValidator(_policy), PlainSerializer(_policy_name, when_used="json")]
FilePath = Annotated[Path, BeforeValidator(_home)]
Port = Annotated[int, Field(ge=0, le=65535)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Serialization = Annotated[str, AfterValidator(_serialization)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)]
TierNames = Annotated[tuple[Literal["memory", "redis", "disk"], ...], BeforeValidator(_listed), Field(min_length=1)]
