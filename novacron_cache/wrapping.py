"""What an application sees in the place of a function that it decorated.

A decorated function stays a function: the generated wrapper (see `compiling`) carries the cache's methods as
attributes. A decorated method becomes a descriptor, because `vms.get_state.invalidate("vm-1")` has to know `vms`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import wrapt

from .functions import METHODS, AsyncCachedFunction, CachedFunction

if TYPE_CHECKING:
    from .decorators import Controller


class _Bound:
    """A cached method bound to an instance or a class; each decorated method has its own subclass with its own call."""

    # A class can have a qualified name for its instances only in a slot. A `__getattr__` could answer for it, and for
    # the rest of what the function has, but would slow down reading `obj`, which every hit does.
    __slots__ = ("__qualname__", "__weakref__", "obj")

    controller: Controller
    view: type[CachedFunction[..., Any] | AsyncCachedFunction[..., Any]]
    obj: Any

    @property
    def cache_controller(self) -> Controller:
        return self.controller

    @property
    def __self__(self) -> Any:
        return self.obj

    @property
    def __func__(self) -> Any:
        return self.controller.function

    @property
    def __wrapped__(self) -> Any:
        return self.controller.function.__get__(self.obj)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bound) and other.obj is self.obj and other.controller is self.controller

    def __hash__(self) -> int:
        return hash((id(self.obj), id(self.controller)))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.obj, self.controller.function.__name__)

    def __repr__(self) -> str:
        return f"<cached method {self.controller.label} of {self.obj!r}>"


def _of_view(name: str) -> property:
    def method(self: _Bound) -> Any:
        return getattr(self.view(self.controller, (self,)), name)

    return property(method)


for _name in METHODS:
    setattr(_Bound, _name, _of_view(_name))

_SHOWN = ("__name__", "__module__", "__doc__", "__annotations__", "__defaults__", "__kwdefaults__", "__code__")
"""What a bound method shows of its function, as the interpreter's own bound methods do."""


def _shown(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the attributes of a function that its bound methods have as well, as a class body has them."""
    own = {name: getattr(function, name) for name in _SHOWN if hasattr(function, name)}
    # As static methods, for an attribute that is a function itself must not be bound.
    return own | {name: staticmethod(value) for name, value in getattr(function, "__dict__", {}).items()}


class CachedMethod(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # wrapt's own types fix the signature
    """The descriptor of a cached method; each decorated method has its own subclass with its own `__get__`."""

    _self_controller: Controller

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method through its class, the instance being the first argument."""
        if not args:
            return self.__wrapped__(*args, **kwargs)  # the natural TypeError
        return self.__get__(args[0], type(args[0]))(*args[1:], **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return a method that takes the instance before the other arguments, as the function itself does here."""
        if name in METHODS:
            controller = self._self_controller
            view = AsyncCachedFunction if controller.asynchronous else CachedFunction
            return getattr(view(controller, unbound=True), name)
        return getattr(self.__wrapped__, name)

    @property
    def cache_controller(self) -> Controller:
        """Return what stands behind the method."""
        return self._self_controller

    # As a function is, it is pickled by its name and never copied; a proxy of wrapt's refuses both.

    def __reduce_ex__(self, protocol: Any) -> str:
        return str(self.__qualname__)

    def __copy__(self) -> CachedMethod:
        return self

    def __deepcopy__(self, memo: Any) -> CachedMethod:
        return self


def _pass_through(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def method_of(controller: Controller, *, of_class: bool) -> Any:
    """Return the descriptor of a cached method."""
    view = AsyncCachedFunction if controller.asynchronous else CachedFunction
    bound_class: Any = type(
        f"Bound_{controller.function.__name__}",
        (_Bound,),
        _shown(controller.function)
        | {
            "__slots__": (),
            "controller": controller,
            "view": view,
            "__call__": controller.compiled.call,
        },
    )
    controller.on_compile = lambda: setattr(bound_class, "__call__", controller.compiled.call)
    label = controller.label
    if of_class:

        def get(self: Any, instance: Any, owner: Any = None) -> Any:
            bound = bound_class()
            bound.obj = owner if owner is not None else type(instance)
            bound.__qualname__ = label
            return bound
    else:

        def get(self: Any, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            # Filled here, not by an `__init__`, which would cost another call.
            bound = bound_class()
            bound.obj = instance
            bound.__qualname__ = label
            return bound

    descriptor_class = type(f"Cached_{controller.function.__name__}", (CachedMethod,), {"__get__": get})
    descriptor = descriptor_class(controller.function, _pass_through)
    descriptor._self_controller = controller
    return descriptor


def function_of(controller: Controller) -> Any:
    """Return the generated wrapper of a function, dressed as the function and carrying the cache's methods."""
    function = controller.compiled.call
    functools.update_wrapper(function, controller.function)
    view: Any = (AsyncCachedFunction if controller.asynchronous else CachedFunction)(controller)
    for name in METHODS:
        setattr(function, name, getattr(view, name))
    function.cache_controller = controller  # type: ignore[attr-defined]  # one more attribute of a function
    return function
