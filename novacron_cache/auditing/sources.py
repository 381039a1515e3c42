"""Who can say what is true now: from a stored key to the call that would load its value.

A stored key carries its values with their types, so the arguments of the call can be had back from it, for an entry of
process memory and for a payload of a server alike. The request made of them is compared with the key it came from;
what does not give exactly that key back is not audited, for a reason that is reported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..callables import is_asynchronous
from ..declaring import KeyMaker, all_controllers, declared, loader_of, models_with_loaders
from ..effects import Load
from ..errors import CacheError
from ..keys import KeyTemplate, StoredReader, head_of, is_cut, stored_text_key
from ..requests import Plan, Request

if TYPE_CHECKING:
    from ..cache import Cache

NO_LOADER: Final = "no function is known to load it"
NO_INSTANCE: Final = "needs an instance"
TOO_LONG: Final = "its key is too long to be read back"
UNREADABLE: Final = "its key does not give the arguments back"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one value can be read from its source.

    Attributes:
        request: what the cache would be asked.
        load: the call of the original function.
        asynchronous: whether it is a coroutine function.
        pick: takes the value out of what the call returned.
        template: the text of the key's template.
    """

    request: Request
    load: Load
    asynchronous: bool
    pick: Callable[[Any], Any]
    template: str


class _Source:
    """One function that loads the values of a name: a decorated one, a batch, or a model's loader."""

    def __init__(
        self, function: Callable[..., Any], plan: Plan, keys: KeyMaker, *, controller: Any = None, element: str = ""
    ) -> None:
        self._function = function
        self._plan = plan
        self._keys = keys
        self._controller = controller
        self._bound: str | None = getattr(controller, "bound", None)
        self._each: str | None = getattr(controller, "each", None)
        self._element = element
        self._signature = inspect.signature(function)
        self.asynchronous = is_asynchronous(function)
        self._reader = StoredReader(plan.space, keys.template)

    def reading(self, stored: str) -> Reading | str | None:
        """Return how to read the value of a stored key, why that cannot be done, or None for a key of another."""
        template = self._keys.template
        values = self._reader.read(stored)
        if values is None:
            return NO_INSTANCE if self._is_scoped(stored) else None
        known: dict[str, Any] = {}
        for placeholder, value in zip(template.placeholders, values, strict=True):
            if placeholder.attributes:
                return NO_INSTANCE if placeholder.root == self._bound else f"its key has only `{placeholder.name}`"
            known[placeholder.root] = value
        found = self._arguments(known)
        if isinstance(found, str):
            return found
        args, kwargs, named = found
        subject = known.get(self._element)
        load = Load(self._function, tuple(args), kwargs)
        try:
            request = self._keys.request(self._plan, {**known, **named}, load=load, subject=subject)
        except CacheError:
            return UNREADABLE
        if request.key != stored:
            return UNREADABLE
        return Reading(request, load, self.asynchronous, self._picker(subject), template.text)

    def _is_scoped(self, stored: str) -> bool:
        """Return whether a key has the `cache_scope` of an instance, which does not lead back to one."""
        if self._controller is None or self._controller.owners is None:
            return False
        scoped = KeyTemplate.parse(f"<cache_scope>@{self._keys.template.text}")
        return StoredReader(self._plan.space, scoped).read(stored) is not None

    def _arguments(self, known: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]] | str:
        """Return positional and keyword arguments and the values by name, or what is missing."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        named: dict[str, Any] = {}
        for name, parameter in self._signature.parameters.items():
            if name == self._bound:
                owners = self._controller.owners
                value = None if owners is None else owners.first
                if value is None:
                    return NO_INSTANCE
            elif name == self._each:
                value = [known[self._element]]
            elif name in known:
                value = known[name]
            elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                value = ()
            elif parameter.default is not inspect.Parameter.empty:
                value = parameter.default
            else:
                return f"its key leaves out `{name}`"
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs |= dict(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[name] = value
            else:
                args.append(value)
            if name != self._each:
                named[name] = value
        return args, kwargs, named

    def _picker(self, subject: Any) -> Callable[[Any], Any]:
        if self._each is None:
            return lambda result: result
        # What a batch loader leaves out is absent, which is cached as None.
        return lambda result: result.get(subject)


def _of_controller(plan: Plan, controller: Any) -> _Source:
    element = getattr(controller, "element", "")
    return _Source(controller.function, plan, controller.keys, controller=controller, element=element)


class Sources:
    """Every function of this process that loads what a cache keeps, as of now.

    Args:
        cache: the cache; functions that have not been bound to it yet are not looked for.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # Only what the sample asks for is prepared: rounds are frequent, and functions may be many.
        self._unprepared: dict[str, list[Callable[[], _Source]]] | None = None
        self._prepared: dict[str, list[_Source]] = {}

    def _all(self) -> Iterator[tuple[Plan, Callable[[], _Source]]]:
        cache = self._cache
        for controller in all_controllers():
            if controller.cache is cache:
                plan = cache.plan(controller.declaration)
                yield plan, partial(_of_controller, plan, controller)
        for model in models_with_loaders():
            function = loader_of(model)
            # Another model's plan is not made here: making it would settle which of two models of one name is first.
            if function is not None and declared(model) in cache._plans:
                plan = cache.plan(declared(model))
                yield plan, partial(_Source, function, plan, cache.keys_of_model(model))

    def _of(self, head: str) -> list[_Source]:
        """Return the functions that load values of one name."""
        if self._unprepared is None:
            self._unprepared = {}
            for plan, make in self._all():
                self._unprepared.setdefault(head_of(stored_text_key(plan.space, "")), []).append(make)
        if head not in self._prepared:
            self._prepared[head] = [make() for make in self._unprepared.get(head, ())]
        return self._prepared[head]

    def find(self, stored: str, *, asynchronous: bool) -> Reading | str:
        """Return how to read the value of a stored key from its source, or why that cannot be done.

        Args:
            stored: the stored key.
            asynchronous: whether coroutine functions can be called.
        """
        reason = TOO_LONG if is_cut(stored) else NO_LOADER
        for source in self._of(head_of(stored)):
            found = source.reading(stored)
            if isinstance(found, Reading):
                if asynchronous or not found.asynchronous:
                    return found
                found = "needs an event loop"
            if found is not None:
                reason = found
        return reason
