"""Every error the framework raises on purpose, under one root.

Two families: programming mistakes (`DeclarationError` and its children) are raised at declaration and name the
fix; run-time conditions (`TierError` and its children) stay inside the framework, where they become a miss and an
event, unless a caller asked to see them (`wait=True`). Facts are attributes, so that a handler never parses a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class CacheError(Exception):
    """Root of all errors of this package."""


class DeclarationError(CacheError):
    """A cache model, a decorated function or a template is declared wrongly; the message says the fix."""


class TemplateError(DeclarationError):
    """A key or tag template is malformed, or names something that is not there.

    Attributes:
        template: the template as it was written.
    """

    def __init__(self, message: str, *, template: str) -> None:
        super().__init__(message)
        self.template = template


class SchemaError(DeclarationError):
    """A type cannot be cached: it has no schema, or it does not survive its own round trip."""


class KeyValueError(CacheError):
    """A value cannot become part of a key: its type has no stable, injective text form.

    Attributes:
        placeholder: the placeholder the value was meant for.
        value_type: the type of the value.
    """

    def __init__(self, message: str, *, placeholder: str, value_type: type) -> None:
        super().__init__(message)
        self.placeholder = placeholder
        self.value_type = value_type


class CachedValueError(CacheError):
    """A value does not fit the type it is cached as, or cannot be serialised; nothing was cached.

    Attributes:
        key: the logical key, or None when it is not known where the value is checked.
        expected: the declared type, as text.
    """

    def __init__(self, message: str, *, key: str | None = None, expected: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.expected = expected


class SettingsError(CacheError):
    """A setting or an environment variable is wrong; the message names it.

    Attributes:
        variable: the setting or the environment variable, or None when several are involved.
    """

    def __init__(self, message: str, *, variable: str | None = None) -> None:
        super().__init__(message)
        self.variable = variable


class LoaderTimeout(CacheError):  # noqa: N818 - the public name says what is the case
    """A loader did not return within its `hard_timeout`, or did not get one of its function's slots in time.

    Attributes:
        key: the logical key.
        seconds: how long was waited.
        waiting: whether the loader was not even called, because as many as may run at once were running.
    """

    def __init__(self, message: str, *, key: str, seconds: float, waiting: bool = False) -> None:
        super().__init__(message)
        self.key = key
        self.seconds = seconds
        self.waiting = waiting


class CacheClosedError(CacheError):
    """The cache was used after `close()`."""


class DecodeError(CacheError):
    """A stored payload is not one of ours, is damaged, or was written under another schema.

    Attributes:
        reason: `"corrupt"`, `"dictionary"`, `"foreign"`, `"schema"`, `"signature"`, `"too_large"` or `"unsafe"`: the
            miss reason it becomes.
    """

    def __init__(self, message: str, *, reason: str = "corrupt") -> None:
        super().__init__(message)
        self.reason = reason


class DictionaryUnknown(DecodeError):  # noqa: N818 - the name says what is the case
    """A body was compressed with a dictionary that this process does not have.

    Attributes:
        digest: the digest that names the dictionary.
    """

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"compressed with the dictionary {digest.hex()}, which is not here", reason="dictionary")
        self.digest = digest


class DictionaryRefused(CacheError):  # noqa: N818 - the public name says what is the case
    """No dictionary was made for a model: it has too few stored values, or they would hardly get smaller.

    Attributes:
        name: the name of the model or function.
        samples: how many of its stored values were found.
        gain: the share of the bytes that the dictionary saves; None where none could be trained.
    """

    def __init__(self, message: str, *, name: str, samples: int, gain: float | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.samples = samples
        self.gain = gain


class TierError(CacheError):
    """A tier did not do what it was asked; callers see a miss and an event, never this error.

    Attributes:
        tier: the tier's name, such as `"redis"`.
        partial: whether only a part of the tier failed, such as one shard of a cluster; the tier is used as before.
    """

    def __init__(self, message: str, *, tier: str, partial: bool = False) -> None:
        super().__init__(message)
        self.tier = tier
        self.partial = partial


class TierUnavailableError(TierError):
    """A tier cannot be reached, timed out, is full or read-only.

    Attributes:
        cause: `"timeout"`: it did not answer in time, so asking again would cost that time again; `"lost"`: the
            connection broke, and another one may work; else empty.
    """

    def __init__(self, message: str, *, tier: str, partial: bool = False, cause: str = "") -> None:
        super().__init__(message, tier=tier, partial=partial)
        self.cause = cause


class InvalidationPending(CacheError):  # noqa: N818 - the public name says what is the case
    """An invalidation asked for with `wait=True` has not reached the shared tier yet; it goes on being retried.

    Attributes:
        receipt: the receipt of the invalidation.
    """

    def __init__(self, message: str, *, receipt: object = None) -> None:
        super().__init__(message)
        self.receipt = receipt


class PatternLogFull(CacheError):  # noqa: N818
    """The bounded log of glob invalidations is full of rules that may still matter; use a tag instead.

    Attributes:
        limit: how many rules the log holds.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class CacheScopeWarning(UserWarning):
    """Two instances of a class share the entries of a cached method although nothing tells them apart in the key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, or an empty string when nothing is near."""
    match: Sequence[str] = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
