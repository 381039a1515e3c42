"""Plans and requests: how this cache keeps the values of a declaration, and what a call with a plain key wants."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .. import flows
from ..declaring import Declaration, KeyMaker, declaration_of, key_of
from ..drivers import adrive, drive
from ..durations import Duration, seconds
from ..effects import Load
from ..engine import Engine
from ..entry import Entry
from ..errors import CacheClosedError, DeclarationError
from ..events import logger
from ..keys import KeyTemplate, stored_text_key
from ..options import Options
from ..requests import ALL_TIERS, Plan, Request
from ..schema import Schema, plain_schema
from ..settings import CacheSettings
from .arguments import ValuesReader, checked_tags, values_reader

if TYPE_CHECKING:
    from ..codecs import Codec

T = TypeVar("T")

_PLAIN = Declaration("", Any, Options(), label="the cache", none_allowed=True)


class Requesting:
    """What all operations of a cache start from.

    Args:
        settings: what the cache is made of.
        engine: its engine.
        codec: how values are serialised.
    """

    def __init__(self, settings: CacheSettings, engine: Engine, codec: Codec) -> None:
        self.settings = settings
        self.engine = engine
        self._codec = codec
        self._plans: weakref.WeakKeyDictionary[Declaration, Plan] = weakref.WeakKeyDictionary()
        self._keys: dict[Any, KeyMaker] = {}
        self._key_values: dict[Any, ValuesReader] = {}
        self._types: dict[str, list[Declaration]] = {}
        self._spaces: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._closed = False

    def check_open(self) -> None:
        """Raise when the cache is closed.

        Raises:
            CacheClosedError: it is.
        """
        if self._closed:
            raise CacheClosedError("the cache is closed; make another one, or configure() another default")

    def _run(self, flow: Generator[Any, Any, T]) -> T:
        return drive(self.engine, flow)

    # -- plans ---------------------------------------------------------------------------------------------------------

    def plan(self, declaration: Declaration) -> Plan:
        """Return how this cache keeps the entries of a declaration, its settings having the last word."""
        plan = self._plans.get(declaration)
        if plan is None:
            override = self.settings.options_for(declaration.name)
            said = Options(
                ttl=override.ttl, grace=override.grace, refresh_ahead=override.refresh_ahead, jitter=override.jitter,
                tiers=frozenset(override.tiers) if override.tiers else None, negative_ttl=override.negative_ttl,
                soft_timeout=override.soft_timeout, hard_timeout=override.hard_timeout,
                max_concurrent_loads=override.max_concurrent_loads, shadow=override.shadow,
            )  # fmt: skip
            options = said.over(declaration.options)
            type_ = declaration.type
            codec = self._codec if options.codec is None else options.codec
            if codec.signed_only and not self.engine.pipeline.signed:
                raise DeclarationError(
                    f"{declaration.label}: codec {codec.name!r} runs code from whatever it reads, so it is only used "
                    f"with signing_keys in the cache's settings"
                )
            schema = plain_schema() if type_ is Any else Schema.of(type_, codec=codec)
            plan = Plan(
                declaration.name,
                schema,
                ttl=options.ttl if options.ttl is not None else self.settings.default_ttl,
                negative_ttl=options.negative_ttl,
                grace=options.grace or 0.0,
                refresh_ahead=options.refresh_ahead or None,
                jitter=options.jitter or 0.0,
                tiers=options.tiers or ALL_TIERS.union(tier.name for tier in self.engine.shared),
                none_allowed=declaration.none_allowed,
                strong=options.consistency == "strong",
                soft_timeout=options.soft_timeout if options.grace else None,
                hard_timeout=options.hard_timeout,
                max_concurrent_loads=options.max_concurrent_loads,
                skip_if=options.skip_if,
                shadow=(self.settings.shadow if options.shadow is None else options.shadow) or None,
                label=declaration.label,
                space=self._space(declaration, schema),
            )
            self._plans[declaration] = plan
        return plan

    def check_threads(self, plan: Plan) -> None:
        """Refuse a time-out for synchronous loaders where there is no thread to leave one in.

        Raises:
            DeclarationError: there is none.
        """
        if not self.settings.background_threads and (plan.soft_timeout is not None or plan.hard_timeout is not None):
            which = "hard_timeout" if plan.soft_timeout is None else "soft_timeout"
            raise DeclarationError(
                f"{plan.label}: {which} needs a thread to leave a synchronous loader in; set background_threads=4 "
                f"(NOVACRON_CACHE_BACKGROUND_THREADS) in the cache's settings, or make the function asynchronous"
            )

    def _space(self, declaration: Declaration, schema: Schema[Any]) -> str:
        """Return what stands for a name in stored keys, so that two types of one name never read each other's values.

        Nor do two codecs of one type. Payloads tell by their fingerprint; what is in process memory carries none.
        """
        with self._lock:
            space, number, kind = declaration.name, 1, (declaration.type, schema.codec.format_id)
            while self._spaces.setdefault(space, kind) != kind:
                space = f"{declaration.name}#{schema.fingerprint.hex()}" + f"#{number}" * (number > 1)
                number += 1
            return space

    def tag_override(self, declaration: Declaration) -> tuple[str, ...] | None:
        """Return the tag templates that the settings give a name, or None where they say nothing."""
        return self.settings.options_for(declaration.name).tags

    def keys_of_model(self, model: Any) -> KeyMaker:
        """Return what makes the keys of a cache model.

        Raises:
            DeclarationError: the model has no key.
        """
        keys = self._keys.get(model)
        if keys is None:
            declaration, text = declaration_of(model), key_of(model)
            if declaration is None or text is None:
                name = getattr(model, "__name__", repr(model))
                raise DeclarationError(f"{name} has no key; declare it as `class {name}(CacheModel, key='...:<id>')`")
            override = self.tag_override(declaration)
            tags = declaration.options.tags or () if override is None else override
            template = KeyTemplate.parse(text)
            fields = tuple(model.model_fields)
            keys = KeyMaker(template, tags, names=template.roots, result_fields=fields, owner=declaration.name)
            self._keys[model] = keys
        return keys

    def _values_of(self, model: Any, template: KeyTemplate) -> ValuesReader:
        reader = self._key_values.get(model)
        if reader is None:
            reader = self._key_values[model] = values_reader(model, template.roots)
        return reader

    # -- requests for plain keys ----------------------------------------------------------------------------------

    def _request(
        self,
        key: str,
        model: Any = None,
        *,
        value: Any = None,
        tags: Iterable[str] = (),
        ttl: Duration | None = None,
        load: Load | None = None,
        strong: bool = False,
    ) -> Request:
        request = self._plain_request(key, model, value=value, tags=tags, ttl=ttl, load=load)
        request.strong = request.strong or strong
        return request

    def _plain_request(
        self, key: str, model: Any, *, value: Any, tags: Iterable[str], ttl: Duration | None, load: Load | None
    ) -> Request:
        if not isinstance(key, str):
            raise TypeError(f"a key is text, not {type(key).__name__}")
        self.check_open()
        life = None if ttl is None else seconds(ttl)
        named = tuple(checked_tags(tags))
        type_ = model if model is not None else type(value)
        declaration = declaration_of(type_)
        if declaration is None:
            declaration = _PLAIN if model is None else self._adapted(model)
            plan = self.plan(declaration)
            return Request(plan, stored_text_key(plan.space, key), key, named, load=load, ttl=life)
        plan = self.plan(declaration)
        if key_of(type_) is not None:
            # A key that the model's own template gives is the same entry as the model's.
            keys = self.keys_of_model(type_)
            values = self._values_of(type_, keys.template)(keys.template.match(key))
            if values is not None and keys.template.build(values) == key:
                request = keys.request(plan, values, load=load, ttl=life)
                request.tags = tuple(dict.fromkeys((*request.tags, *named)))
                return request
        return Request(plan, stored_text_key(plan.space, key), key, named, load=load, ttl=life)

    def _adapted(self, model: Any) -> Declaration:
        """Return the declaration of a type that is no cache model; one for each type as it is written."""
        text = repr(model)
        known = self._types.setdefault(text, [])
        found = next((one for one in known if one.type == model), None)
        if found is None:
            label = getattr(model, "__name__", None) or text
            found = Declaration(f"={text}", model, Options(), label=f"`{label}`", none_allowed=True)
            known.append(found)
        return found

    # -- background ----------------------------------------------------------------------------------------------------

    def refresh_early(self, request: Request, entry: Entry, *, asynchronous: bool) -> None:
        """Start one refresh of an entry that has reached its `refresh_at`, in the background.

        Asynchronous callers start a task. For synchronous ones it is done in a thread, and only where
        `background_threads` allows it.
        """
        if request.load is not None and self.is_early(entry):
            self._begin(lambda: flows.refresh_ahead(self.engine, request), [entry], asynchronous=asynchronous)

    def refresh_batch(
        self, requests: Sequence[Request], entries: Sequence[Entry], batch: flows.BatchLoad, *, asynchronous: bool
    ) -> None:
        """Start one refresh of several entries of which `is_early` is true, as `refresh_early` does of one."""
        self._begin(lambda: flows.refresh_batch(self.engine, requests, batch), entries, asynchronous=asynchronous)

    def is_early(self, entry: Entry) -> bool:
        """Return whether it is time for the early refresh of an entry, and none is under way."""
        # Past its ttl it answers in its grace, and when its loader is tried again has been decided.
        return not entry.refreshing and entry.refresh_at <= self.engine.clock.monotonic() < entry.expires

    def _begin(self, flow: Callable[[], flows.Flow[None]], entries: Sequence[Entry], *, asynchronous: bool) -> None:
        """Carry out a refresh of some entries behind the call, if it can be done there."""
        if not asynchronous and not self.settings.background_threads:
            return
        for entry in entries:
            entry.refreshing = True
        if asynchronous:
            self.engine.background.spawn(self._arefresh(flow(), entries))
        elif self.engine.background.submit(lambda: self._refresh(flow(), entries), lambda: _over(entries)) is None:
            _over(entries)

    def _refresh(self, flow: flows.Flow[None], entries: Sequence[Entry]) -> None:
        try:
            self._run(flow)
        except Exception:  # noqa: S110 - the flow has told the listeners; the value goes on until its ttl
            pass
        except BaseException:
            # It must not end the thread, of which there are only so many.
            logger.exception("a refresh in the background was interrupted")
        finally:
            _over(entries)

    async def _arefresh(self, flow: flows.Flow[None], entries: Sequence[Entry]) -> None:
        try:
            await adrive(self.engine, flow)
        except Exception:  # noqa: S110 - the flow has told the listeners; the value goes on until its ttl
            pass
        finally:
            _over(entries)


def _over(entries: Sequence[Entry]) -> None:
    for entry in entries:
        entry.refreshing = False
