"""What there is once in a process of libvirt: the library, its event loop, and how its errors are told.

libvirt delivers events from an event loop that the application has to run, and that has to exist before the first
connection. The loop's own thread must never wait for anything: it also answers the keepalives of every connection.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from novacron_cache import DeclarationError

from .errors import HypervisorError, HypervisorUnavailableError, UnknownVMError

logger = logging.getLogger("novacron_cache.vm")

_lock = threading.Lock()
_loop_of: int | None = None  # the process in which the loop runs


def library() -> Any:
    """Return the module `libvirt`, its event loop running.

    The first call in a process also silences what libvirt would print to stderr of each error; they are raised anyway.

    Raises:
        DeclarationError: the module is not installed, or this process was forked from one that used it.
    """
    global _loop_of
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        raise DeclarationError(
            "libvirt-python is not installed; install it with: pip install 'novacron-cache[libvirt]' (building it "
            "needs libvirt-dev, pkg-config and a C compiler)"
        ) from error
    with _lock:
        if _loop_of is None:
            libvirt.registerErrorHandler(_silent, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run, args=(libvirt,), name="novacron_cache libvirt events", daemon=True).start()
            _loop_of = os.getpid()
        elif _loop_of != os.getpid():
            raise DeclarationError(
                "libvirt does not survive a fork: connect in the child, before any use in the parent"
            )
    return libvirt


def _silent(_context: Any, _error: Any) -> None:
    """Take the place of what would print."""


def _run(libvirt: Any) -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception:
            logger.exception("libvirt's event loop failed; it goes on")
            time.sleep(1)


@contextmanager
def translated(libvirt: Any, what: str, *, vm_id: str = "") -> Iterator[None]:
    """Raise errors of this package for libvirt's.

    Raises:
        UnknownVMError: there is no such domain.
        HypervisorUnavailableError: the connection is lost.
        HypervisorError: anything else, with libvirt's code.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_NO_DOMAIN:
            raise UnknownVMError(f"{what}: there is no VM {vm_id!r}", vm_id=vm_id) from error
        kind = HypervisorUnavailableError if is_lost(libvirt, error) else HypervisorError
        raise kind(f"{what}: {error.get_error_message() or error}", vm_id=vm_id, code=code) from error


def is_lost(libvirt: Any, error: Any) -> bool:
    """Return whether an error says that there is no connection any more."""
    code, domain = error.get_error_code(), error.get_error_domain()
    if code in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_RPC):
        return True
    # "internal error: client socket is closed", and what the system says of sockets.
    return domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) and code in (
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_ERR_SYSTEM_ERROR,
    )
