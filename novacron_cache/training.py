"""Training: a dictionary for one model's values, made of some of them and measured on others.

A dictionary that is not worth it costs every process memory and every body eight bytes, so none is kept on trust: of
the stored values that were taken, one in five is held out of the training, and what the cache would store of these is
compared, whole payloads with and without. Values are taken from the tier that will keep the dictionary, and nothing of
them goes anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from .chance import chance
from .codecs import MAX_DICTIONARY_BYTES, Dictionary, Header
from .drivers import drive
from .effects import Fetch
from .engine import Engine
from .errors import DeclarationError, DecodeError, DictionaryRefused, DictionaryUnknown, TierUnavailableError
from .flows.dictionaries import fetch, newest, publish
from .keys import head_of, stored_name
from .tiers import Tier
from .tiers.stored import stored_keys

__all__ = ["DEFAULT_BYTES", "DEFAULT_SAMPLES", "LEAST_GAIN", "LEAST_SAMPLES", "TrainedDictionary", "home_of", "train"]

DEFAULT_SAMPLES: Final = 1000
LEAST_SAMPLES: Final = 100
"""How many stored values there have to be; what is common to fewer says little about the next one."""
DEFAULT_BYTES: Final = 16 * 1024
LEAST_BYTES: Final = 1024
LEAST_GAIN: Final = 0.1
"""The share of the stored bytes that a dictionary has to save."""

MOST_SAMPLES: Final = 100_000
_HELD_OUT: Final = 5
"""One value in so many is measured, and not trained on."""
_AT_ONCE: Final = 100
_MOST_BYTES: Final = 64 * 2**20
"""How many bytes of values are taken at most."""
_ENOUGH: Final = 10
"""How many times as many keys as samples are gone through before the rest is left alone."""

Sample = tuple[str, Header, bytes]
"""A stored key, and what its payload held."""


@dataclass(frozen=True, slots=True)
class TrainedDictionary:
    """What came of training a dictionary.

    Attributes:
        name: the model or function whose values it is for.
        version: the name of the dictionary, in hexadecimal; the same content has the same name.
        replaces: the version that values were compressed with until now, or None.
        size: bytes of the dictionary.
        trained_on: how many stored values it was made of.
        measured_on: how many other ones it was measured on.
        before: bytes that one of these takes on average as the settings have it, without a dictionary.
        after: bytes that it takes with this dictionary.
        stored: whether it is in use now.
    """

    name: str
    version: str
    replaces: str | None
    size: int
    trained_on: int
    measured_on: int
    before: float
    after: float
    stored: bool

    @property
    def gain(self) -> float:
        """The share of the stored bytes that it saves."""
        return 1.0 - self.after / self.before

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the gain as plain data, for JSON."""
        return {**asdict(self), "gain": self.gain}


def home_of(engine: Engine, tiers: frozenset[str] | None) -> Tier:
    """Return the tier that keeps a dictionary: the nearest shared one that the model's values are kept in.

    Args:
        engine: the state of the cache.
        tiers: the names of those tiers; None, where nobody knows, is the authority.

    Raises:
        DeclarationError: there is none.
    """
    for tier in engine.shared:
        if tiers is None or tier.name in tiers:
            return tier
    raise DeclarationError(
        "no shared tier keeps the values: a dictionary is trained on what is stored on a server or a disk, for all who "
        "read it there"
    )


def train(
    engine: Engine,
    name: str,
    home: Tier,
    *,
    samples: int = DEFAULT_SAMPLES,
    size: int = DEFAULT_BYTES,
    store: bool = True,
    progress: Callable[[float, str], None] = lambda _part, _text: None,
) -> TrainedDictionary:
    """Train a dictionary on stored values of a model or function, measure it, and have it used.

    Args:
        engine: the state of the cache.
        name: the model's or function's name.
        home: the tier that has the values, and is to keep the dictionary.
        samples: how many values are taken at most.
        size: how long the dictionary may be, in bytes.
        store: whether it is kept; else it is only measured.
        progress: told which part of the tier has been gone through, and that in words.

    Raises:
        DeclarationError: an argument is wrong, or the tier cannot tell what it keeps.
        DictionaryRefused: there are too few values, or it saves too little.
        SettingsError: the package `zstandard` is not installed.
        TierError: the tier does not answer, or did not take the dictionary.
    """
    _check(name, samples, size, home)
    taken = _taken(engine, name, home, samples, progress)
    if len(taken) < LEAST_SAMPLES:
        raise DictionaryRefused(
            f"{name}: {len(taken)} values in the {home.name} tier to learn from, and it takes {LEAST_SAMPLES}; train "
            f"when more of them are cached",
            name=name,
            samples=len(taken),
        )
    chance.shuffle(taken)
    held_out = taken[::_HELD_OUT]
    learnt = [sample for number, sample in enumerate(taken) if number % _HELD_OUT]
    dictionary = _trained(engine, name, [body for _, _, body in learnt], size, len(taken))
    before, after = _measured(engine, held_out, dictionary)
    gain = 1.0 - after / before
    if gain < LEAST_GAIN:
        raise DictionaryRefused(
            f"{name}: with a dictionary a value would take {after:,.0f} bytes, without one {before:,.0f}; it has "
            f"to save {LEAST_GAIN:.0%} to be worth having",
            name=name,
            samples=len(taken),
            gain=gain,
        )
    replaced = drive(engine, newest(engine, home, name))
    if store and not drive(engine, publish(engine, home, name, dictionary)):
        raise TierUnavailableError(f"the {home.name} tier did not take the dictionary of {name}", tier=home.name)
    return TrainedDictionary(
        name, dictionary.digest.hex(), None if replaced is None else replaced.hex(), len(dictionary.content),
        len(learnt), len(held_out), before, after, store,
    )  # fmt: skip


def _check(name: str, samples: int, size: int, home: Tier) -> None:
    if not name:
        raise DeclarationError("plain keys have no dictionary: name a model, or a function's name")
    if not LEAST_SAMPLES <= samples <= MOST_SAMPLES:
        raise DeclarationError(f"samples={samples}: expected {LEAST_SAMPLES:,} to {MOST_SAMPLES:,}")
    if not LEAST_BYTES <= size <= MAX_DICTIONARY_BYTES:
        raise DeclarationError(f"size={size}: expected {LEAST_BYTES:,} to {MAX_DICTIONARY_BYTES:,} bytes")
    if not hasattr(home, "scan"):
        raise DeclarationError(f"the {home.name} tier cannot tell what it keeps, so there is nothing to learn from")


def _taken(engine: Engine, name: str, home: Tier, samples: int, progress: Callable[[float, str], None]) -> list[Sample]:
    """Return values of a name, each stored one of those gone through with the same chance."""
    keys = iter(_chosen(name, home, samples, progress))
    taken: list[Sample] = []
    room = _MOST_BYTES
    while room > 0 and (batch := list(islice(keys, _AT_ONCE))):
        for key, payload in zip(batch, home.perform(Fetch(batch)).payloads, strict=True):
            sample = None if payload is None else _opened(engine, home, key, payload)
            if sample is not None and room > 0:
                taken.append(sample)
                room -= len(sample[2])
    return taken


def _chosen(name: str, home: Tier, samples: int, progress: Callable[[float, str], None]) -> list[str]:
    chosen: list[str] = []
    for seen, key in enumerate(_keys(name, home, progress)):
        # A reservoir: whatever the tier's order, each has the same chance to stay.
        if seen < samples:
            chosen.append(key)
        elif (place := chance.randrange(seen + 1)) < samples:
            chosen[place] = key
        if seen >= _ENOUGH * samples:
            break
    return list(dict.fromkeys(chosen))


def _keys(name: str, home: Tier, progress: Callable[[float, str], None]) -> Iterator[str]:
    head = stored_name(name)
    # Two types of one name are told apart behind a sign; to compress them they are one.
    heads = (head, f"{head}#")
    for part, place, keys in stored_keys(home, head):
        for key in keys:
            own = head_of(key)
            if own == heads[0] or own.startswith(heads[1]):
                yield key
        progress(part, f"{home.name}{place}")


def _opened(engine: Engine, home: Tier, key: str, payload: bytes) -> Sample | None:
    pipeline = engine.pipeline
    try:
        try:
            header, body = pipeline.open(key, payload)
        except DictionaryUnknown as error:
            drive(engine, fetch(engine, [error.digest], [home], copies=False))
            header, body = pipeline.open(key, payload)
    except DecodeError:
        return None
    return None if header.is_none or not body else (key, header, body)


def _trained(engine: Engine, name: str, bodies: Sequence[bytes], size: int, samples: int) -> Dictionary:
    from .codecs.compression import package

    zstandard = package("zstandard", "zstd")
    try:
        content: bytes = zstandard.train_dictionary(size, list(bodies)).as_bytes()
        return engine.pipeline.dictionaries.made(content)
    except (zstandard.ZstdError, DecodeError) as error:
        raise DictionaryRefused(
            f"{name}: the {samples} values are too short, or too unlike each other, to learn anything from",
            name=name,
            samples=samples,
        ) from error


def _measured(engine: Engine, held_out: Sequence[Sample], dictionary: Dictionary) -> tuple[float, float]:
    """Return how many bytes a value takes on average, without a dictionary and with this one."""
    seal = engine.pipeline.seal
    before = sum(len(seal(key, header, body)) for key, header, body in held_out)
    after = sum(len(seal(key, header, body, dictionary)) for key, header, body in held_out)
    return before / len(held_out), after / len(held_out)
