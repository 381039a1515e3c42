"""A declaration: what a model or a decorated function says once, checked at once, and turned into requests later."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin
from weakref import WeakKeyDictionary, WeakSet, ref

from pydantic import BaseModel

from .effects import Load
from .errors import CacheScopeWarning, DeclarationError, KeyValueError, TemplateError, nearest
from .keys import KeyTemplate, Texts, bounded_key, fill, stored_key, stored_name
from .markers import MAX_NAMED, dependencies, key_dep
from .options import Options, name_of_callable
from .requests import Plan, Request, Several


class Declaration:
    """What was declared about the entries of one name.

    Attributes:
        name: the name of the model or function.
        type: the declared type, without None; `Any` where nothing is declared.
        options: the declared options.
        label: the function or model, as messages call it.
        none_allowed: whether None may stand for "not found".
    """

    __slots__ = ("__weakref__", "label", "name", "none_allowed", "options", "type")

    def __init__(self, name: str, type_: Any, options: Options, *, label: str, none_allowed: bool) -> None:
        self.name = name
        self.type = type_
        self.options = options
        self.label = label
        self.none_allowed = none_allowed


_declarations: WeakKeyDictionary[type[Any], Declaration] = WeakKeyDictionary()
_keys: WeakKeyDictionary[type[Any], str] = WeakKeyDictionary()
_loaders: WeakKeyDictionary[type[Any], Callable[..., Any]] = WeakKeyDictionary()
_controllers: WeakSet[Any] = WeakSet()


def declare(model: type[Any], declaration: Declaration, key: str | None) -> None:
    """Register what a cache model declares."""
    _declarations[model] = declaration
    if key is not None:
        _keys[model] = key


def declared(model: type[Any]) -> Declaration:
    """Return the declaration of a type that is known to be a cache model."""
    return _declarations[model]


def declaration_of(type_: Any) -> Declaration | None:
    """Return the declaration of a cache model, or None for any other type."""
    return _declarations.get(type_) if isinstance(type_, type) else None


def key_of(type_: Any) -> str | None:
    """Return the key template of a cache model, or None where it has none."""
    return _keys.get(type_) if isinstance(type_, type) else None


def register_loader(model: type[Any], function: Callable[..., Any]) -> None:
    """Register the function that loads a cache model by the placeholders of its key."""
    _loaders[model] = function


def loader_of(model: type[Any]) -> Callable[..., Any] | None:
    """Return the function registered for a cache model, or None."""
    return _loaders.get(model)


def models_with_loaders() -> list[type[Any]]:
    """Return the cache models that have a loader."""
    return list(_loaders)


def register_controller(controller: Any) -> None:
    """Remember what stands behind a decorated function, for as long as somebody holds it."""
    _controllers.add(controller)


def all_controllers() -> list[Any]:
    """Return what stands behind each decorated function of this process."""
    while True:
        try:
            return list(_controllers)
        except RuntimeError:  # another thread has just decorated one
            continue


def name_of(model: Any) -> str:
    """Return the name under which the entries of a cache model or cached function are kept; a name is its own.

    Raises:
        DeclarationError: it is none of these.
    """
    if isinstance(model, str):
        return model
    declaration = declaration_of(model)
    if declaration is None and (controller := getattr(model, "cache_controller", None)) is not None:
        declaration = controller.declaration
    if declaration is None:
        raise DeclarationError(f"{model!r} is not a cache model, a cached function or a name")
    return declaration.name


def _known(names: Iterable[str]) -> str:
    found = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
    return f"; they have {found}" if found else ""


class KeyMaker:
    """Makes requests from named values: the key and tag templates of one declaration.

    Attributes:
        template: the key's template.
        early: tag templates that the arguments alone fill.
        late: tag templates that need the result.
    """

    __slots__ = ("_names", "_scoped", "early", "late", "template")

    def __init__(
        self,
        template: KeyTemplate,
        tags: Sequence[str],
        *,
        names: Collection[str],
        result_fields: Collection[str] | None,
        owner: str,
        elements: str | None = None,
    ) -> None:
        """Check the templates.

        Args:
            template: the key's template.
            tags: tag templates.
            names: the names that have values when a request is made.
            result_fields: the fields of the result; None where they are not known, which allows any.
            owner: the function or model, for messages.
            elements: the name of the placeholder that a batch fills, if any.
        """
        self.template = template
        self._scoped: KeyTemplate | None = None
        self._names = set(names) | ({elements} if elements else set())
        early: list[KeyTemplate] = []
        late: list[KeyTemplate] = []
        for text in tags:
            tag = KeyTemplate.parse(text, label="tag")
            tag.refuse_braces(self._names.union(result_fields or ()), owner=owner, kind="value")
            missing = [root for root in sorted(tag.roots) if root not in self._names]
            for root in missing:
                if result_fields is not None and root not in result_fields:
                    known = [*self._names, *result_fields]
                    raise TemplateError(
                        f"tag={text!r}: neither the arguments nor the result of `{owner}` have `{root}`"
                        f"{nearest(root, known).replace(chr(39), '`') or _known(known)}",
                        template=text,
                    )
            (late if missing else early).append(tag)
        self.early = tuple(early)
        self.late = tuple(late)

    def request(
        self,
        plan: Plan,
        values: Mapping[str, Any],
        *,
        scope: Any = None,
        load: Load | None = None,
        ttl: float | None = None,
        subject: Any = None,
    ) -> Request:
        """Return the request for these values.

        Raises:
            KeyValueError: a value has no stable text.
        """
        texts = self.template.texts(values) if scope is None else None
        if texts is not None:
            logical, key = texts[0], bounded_key(stored_name(plan.space) + texts[1])
        else:
            filled = self.template.values(values)
            logical = self.template.render(filled)
            if scope is None:
                key = stored_key(plan.space, self.template, filled)
            else:
                if self._scoped is None:
                    self._scoped = KeyTemplate.parse(f"<cache_scope>@{self.template.text}")
                key = stored_key(plan.space, self._scoped, (scope, *filled))
        return Request(
            plan,
            key,
            logical,
            tuple(dict.fromkeys([tag.build(values) for tag in self.early])) if self.early else (),
            late_tags=self._late(values) if self.late else None,
            load=load,
            ttl=ttl,
            subject=subject,
        )

    def several(self, plan: Plan, values: Mapping[str, Any], element: str, subjects: Collection[Any]) -> Several | None:
        """Return the requests for these values and each of several elements; None where each has to be made by itself.

        Raises:
            KeyValueError: a value has no stable text.
        """
        texts = Texts.of(subjects)
        filled = texts and fill(plan.space, self.template, element, texts, values)
        if texts is None or filled is None or ":" not in filled.logical[0]:
            return None
        longest = max(map(len, texts.plain))
        if longest * (len(filled.logical) - 1) + sum(map(len, filled.logical)) > MAX_NAMED:
            return None
        tags = self._tags(texts, values, element)
        if tags is None:
            return None
        around = [key_dep(filled.logical[0]), *filled.logical[1:]]
        return Several(
            plan,
            filled.keys,
            [text.join(around) for text in texts.plain],
            list(subjects),
            tags,
            dependencies(filled.logical[0], plan.name, ())[:-1],
            lambda subject: self.request(plan, {**values, element: subject}, subject=subject),
        )

    def _tags(self, texts: Texts, values: Mapping[str, Any], element: str) -> Sequence[tuple[str, ...]] | None:
        """Return the tags that are known for each element; None where they have to be written one by one."""
        columns = []
        for tag in self.early:
            around = tag.around(element, texts.kind, values)
            if around is None:
                return None
            columns.append([text.join(around[0]) for text in texts.plain])
        return list(zip(*columns, strict=True)) if columns else [()] * len(texts.plain)

    def _late(self, values: Mapping[str, Any]) -> Callable[[Any], tuple[str, ...]]:
        def render(result: Any) -> tuple[str, ...]:
            return tuple(
                tag.build({root: value_of(tag, root, values, result) for root in tag.roots}) for tag in self.late
            )

        return render


class Owners:
    """The instances (for a classmethod: the classes) of one cached method whose key leaves them out.

    They are watched until a second one without a `cache_scope` comes: that two hypervisors share `vm:1` has to be said.
    Only the first is remembered, weakly.

    Attributes:
        label: the method, for the warning.
        parameter: its first parameter, `self` or `cls`.
        scoped: whether one of them had a `cache_scope`.
        watching: whether a second one would still be warned of.
        on_gone: called when the first one has ceased to exist, so that no other is taken for it by its address.
    """

    __slots__ = ("_first", "label", "on_gone", "parameter", "scoped", "watching")

    def __init__(self, label: str, parameter: str) -> None:
        self.label = label
        self.parameter = parameter
        self.scoped = False
        self.watching = True
        self.on_gone: Callable[[], None] = lambda: None
        self._first: ref[Any] | None = None

    @property
    def first(self) -> Any:
        """The first one without a `cache_scope`, or None; where there are several, they share their entries."""
        return None if self._first is None else self._first()

    def scope_of(self, owner: Any) -> Any:
        """Return the `cache_scope` of an instance or class, or None; warn when one without shares entries unasked."""
        scope = getattr(owner, "cache_scope", None)
        if scope is not None:
            self.scoped = True
        elif self.watching:
            self._watch(owner)
        return scope

    def _watch(self, owner: Any) -> None:
        if self._first is None:
            try:
                self._first = ref(owner, lambda _: self.on_gone())
            except TypeError:
                self.watching = False  # what cannot be referred to weakly cannot be told from a later one
        elif self._first() is not owner:
            self.watching = False
            what = f"two instances of {type(owner).__name__}"
            if isinstance(owner, type):
                what = f"{owner.__name__} and another class"
            warnings.warn(
                f"{what} share the entries of `{self.label}`: name what tells them apart in the key "
                f"(`<{self.parameter}.x>`), give the class a `cache_scope`, or say ignore=['{self.parameter}']",
                CacheScopeWarning,
                stacklevel=_callers_level(),
            )


_OURS = (str(Path(__file__).parent) + os.sep, "<novacron_cache ")
"""How the file names of this package begin, and those of the code that it generates."""


def _callers_level() -> int:
    """Return the `stacklevel` of the line that called into this package, for a warning given by the caller."""
    frame: FrameType | None = sys._getframe(2)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level


def checked_ignore(ignore: Iterable[str], parameters: Collection[str], label: str) -> tuple[str, ...]:
    """Return the parameters that a key leaves out.

    Raises:
        DeclarationError: one of them is no parameter.
    """
    if isinstance(ignore, str):
        raise DeclarationError(f"ignore={ignore!r}: expected a list of parameters, such as ignore=[{ignore!r}]")
    named = tuple(ignore)
    for one in named:
        if one not in parameters and one not in ("self", "cls"):
            raise DeclarationError(f"ignore={[*named]!r}: `{label}` has no parameter {one!r}{nearest(one, parameters)}")
    return named


def condition_parameters(condition: Callable[..., Any], signature: inspect.Signature, label: str) -> tuple[str, ...]:
    """Return the parameters of a function that a condition takes: those that it names, or all for a `**kwargs`.

    Raises:
        DeclarationError: the function has no such parameter, or the condition names none.
    """
    called = name_of_callable(condition)
    try:
        own = inspect.signature(condition).parameters.values()
    except ValueError:
        raise DeclarationError(f"condition: `{called}` does not say what it takes; wrap it in a lambda") from None
    parameters = list(signature.parameters)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own):
        return tuple(parameters)
    named: list[str] = []
    for one in own:
        if one.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise DeclarationError(
                f"condition: `{called}` is given arguments of `{label}` by their names, so its parameters have to be "
                f"named as there: {', '.join(parameters) or 'none'}"
            )
        if one.name in parameters:
            named.append(one.name)
        elif one.default is inspect.Parameter.empty:
            raise DeclarationError(
                f"condition: `{called}` takes {one.name!r}, which is no parameter of `{label}`"
                f"{nearest(one.name, parameters)}"
            )
    return tuple(named)


def value_of(tag: KeyTemplate, root: str, values: Mapping[str, Any], result: Any) -> Any:
    """Return what fills a placeholder: an argument, else a field of the result.

    Raises:
        KeyValueError: the result has no such field.
    """
    if root in values:
        return values[root]
    try:
        return result[root] if isinstance(result, Mapping) else getattr(result, root)
    except (KeyError, AttributeError):
        raise KeyValueError(
            f"{tag.label}={tag.text!r}: the result, a {type(result).__name__}, has no `{root}`",
            placeholder=f"<{root}>",
            value_type=type(result),
        ) from None


def split_none(type_: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it admitted None."""
    if type_ is Any:
        return type_, True
    if type_ is None or type_ is NoneType:
        return NoneType, True
    if get_origin(type_) in (Union, UnionType):
        rest = [arm for arm in get_args(type_) if arm is not NoneType]
        if len(rest) < len(get_args(type_)):
            return Union[tuple(rest)], True  # noqa: UP007 - made of a list
    return type_, False


def fields_of(type_: Any) -> Collection[str] | None:
    """Return the fields a result of this type has, or None where they cannot be known."""
    if isinstance(type_, type):
        if issubclass(type_, BaseModel):
            return tuple(type_.model_fields)
        if hasattr(type_, "__dataclass_fields__"):
            return tuple(type_.__dataclass_fields__)
        if (required := getattr(type_, "__required_keys__", None)) is not None:
            # A TypedDict, also one of typing_extensions, which `typing.is_typeddict` does not know before Python 3.12.
            return tuple(sorted({*required, *getattr(type_, "__optional_keys__", ())}))
        if issubclass(type_, str | int | float | bytes | list | tuple | set | frozenset) or type_ is NoneType:
            return tuple(getattr(type_, "_fields", ()))
    if get_origin(type_) in (list, tuple, set, frozenset):
        return ()
    return None
