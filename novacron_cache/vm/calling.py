"""How the methods of a manager are called, be they blocking or coroutine functions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from novacron_cache import DeclarationError

READS = (
    "get_vm_state", "get_vm_states", "get_vm_resources", "get_vm_migration", "get_vm_metrics", "get_vm_config",
    "get_node_resources", "list_vms", "list_vm_states",
)  # fmt: skip


def blocking(manager: Any, name: str) -> Callable[..., Any]:
    """Return a method of a manager for a blocking caller.

    Raises:
        DeclarationError: it is a coroutine function.
    """
    method: Callable[..., Any] = getattr(manager, name)
    if inspect.iscoroutinefunction(method):
        raise DeclarationError(
            f"{type(manager).__name__}.{name} is a coroutine function: await a{name}(), or use a manager that blocks"
        )
    return method


def ask(manager: Any, name: str, *args: Any) -> Any:
    """Return what a blocking manager says."""
    return blocking(manager, name)(*args)


async def aask(manager: Any, name: str, *args: Any) -> Any:
    """Return what a manager says; one that blocks is asked in a thread."""
    method = getattr(manager, name)
    return await (method(*args) if inspect.iscoroutinefunction(method) else asyncio.to_thread(method, *args))
