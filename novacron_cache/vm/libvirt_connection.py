"""A connection to one libvirt host that is made anew when it is lost, and that passes its events on.

Events arrive in libvirt's own thread, which must not wait, and an invalidation may have to travel to a server. So that
thread only notes them, each once however often it comes, and a thread of the connection carries them out: what came
together is invalidated together.

While nobody listens, anything may change. So everything of the host is suspect, and invalidated, when somebody
subscribes, when the connection is lost, and again when events can be heard once more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from novacron_cache import CacheClosedError

from .errors import HypervisorUnavailableError
from .libvirt_library import library, translated
from .manager import VMCacheManager
from .models import VMStatus

logger = logging.getLogger("novacron_cache.vm")

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 3  # unanswered ones after which the connection is taken for lost
FIRST_PAUSE = 0.05  # seconds between attempts to connect again; doubled up to the last
LAST_PAUSE = 10.0

Note = tuple[str, str]
"""What happened, and the VM it happened to: the events are few in kind, so that a burst of them stays small."""

SUSPECT: Note = ("suspect", "")


class Connection:
    """One host.

    Args:
        uri: libvirt's, such as `qemu:///system`.
        node_id: what the host is called; None takes what it calls itself.

    Attributes:
        node_id: what the host is called.
        losses: how often the connection was lost.

    Raises:
        HypervisorUnavailableError: there is no connection to be had now.
        DeclarationError: libvirt-python is not installed.
    """

    def __init__(self, uri: str, node_id: str | None) -> None:
        self.libvirt = library()
        self.uri = uri
        self.losses = 0
        self._pid = os.getpid()
        self._subscribers: tuple[VMCacheManager, ...] = ()
        self._noted: dict[Note, None] = {}
        self._changed = threading.Condition()
        self._lost = False
        self._closed = False
        self._handle: Any = None
        self._callbacks: list[int] = []
        self._handle = self._open()
        with translated(self.libvirt, uri):
            self.node_id: str = node_id if node_id is not None else self._handle.getHostname()
        self._thread = threading.Thread(target=self._run, name=f"novacron_cache {self.node_id} events", daemon=True)
        self._thread.start()

    @property
    def handle(self) -> Any:
        """Libvirt's connection.

        Raises:
            HypervisorUnavailableError: it is lost, or was closed.
        """
        handle = self._handle
        if handle is None or self._pid != os.getpid():
            why = "closed" if self._closed else "lost and not made anew yet"
            if self._pid != os.getpid():
                why = "of the process from which this one was forked"
            raise HypervisorUnavailableError(f"the connection to {self.uri} is {why}")
        return handle

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._handle is not None

    def subscribe(self, entries: VMCacheManager) -> Callable[[], None]:
        """Tell these entries of every event from now on; return a function that ends it."""
        with self._changed:
            self._subscribers = (*self._subscribers, entries)
        # Right here, so that whoever reads next finds nothing from before.
        entries.invalidate_cluster()

        def unsubscribe() -> None:
            with self._changed:
                self._subscribers = tuple(one for one in self._subscribers if one is not entries)

        return unsubscribe

    def close(self) -> None:
        """Close the connection and end the thread; what has been noted is carried out first, within 5 seconds."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        if self._pid == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join(5)  # it may be waiting for a host that does not answer; then it ends when that does
        self._let_go()

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        """Return a connection whose events are noted."""
        libvirt = self.libvirt
        try:
            handle = libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise HypervisorUnavailableError(
                f"{self.uri}: {error.get_error_message() or error}", code=error.get_error_code()
            ) from error
        # Drivers inside this process have neither connection to lose nor keepalive.
        with contextlib.suppress(libvirt.libvirtError):
            handle.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        with contextlib.suppress(libvirt.libvirtError):
            handle.registerCloseCallback(self._on_close, None)
        self._callbacks = []
        for name, callback in self._listeners().items():
            event = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if event is not None:
                # A driver without such an event refuses it.
                with contextlib.suppress(libvirt.libvirtError):
                    self._callbacks.append(handle.domainEventRegisterAny(None, event, callback, None))
        return handle

    def _let_go(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None or self._pid != os.getpid():
            return
        for number in self._callbacks:
            with contextlib.suppress(self.libvirt.libvirtError):
                handle.domainEventDeregisterAny(number)
        with contextlib.suppress(self.libvirt.libvirtError):
            handle.unregisterCloseCallback()
        with contextlib.suppress(self.libvirt.libvirtError):
            handle.close()

    # -- libvirt's thread -------------------------------------------------------------------------------------------

    def _note(self, *notes: Note) -> None:
        with self._changed:
            self._noted.update(dict.fromkeys(notes))
            self._changed.notify()

    def _on_close(self, _handle: Any, _reason: int, _opaque: Any) -> None:
        with self._changed:
            self._lost = True
            self._noted[SUSPECT] = None
            self._changed.notify()

    def _listeners(self) -> dict[str, Callable[..., None]]:
        """Return libvirt's names of events and what notes them."""

        def noting(what: str) -> Callable[..., None]:
            return lambda _handle, domain, *_: self._note((what, domain.name()))

        return {
            "LIFECYCLE": self._on_lifecycle,
            "REBOOT": noting("rebooted"),
            "BALLOON_CHANGE": noting("resources"),
            "DEVICE_ADDED": noting("resources"),
            "DEVICE_REMOVED": noting("resources"),
            "DISK_CHANGE": noting("resources"),
            "TUNABLE": noting("resources"),
            "MEMORY_DEVICE_SIZE_CHANGE": noting("resources"),
            "TRAY_CHANGE": noting("config"),
            "METADATA_CHANGE": noting("config"),
            "MIGRATION_ITERATION": noting("migration"),
            "JOB_COMPLETED": noting("migration"),
            "AGENT_LIFECYCLE": noting("state"),
            "WATCHDOG": noting("state"),
            "IO_ERROR": noting("state"),
            "PMWAKEUP": noting("state"),
            "PMSUSPEND": noting("state"),
        }

    def _on_lifecycle(self, _handle: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        libvirt, vm_id = self.libvirt, domain.name()
        if event in (
            # A definition that is replaced may have changed anything of it.
            libvirt.VIR_DOMAIN_EVENT_DEFINED,
            libvirt.VIR_DOMAIN_EVENT_UNDEFINED,
            # A domain that is not persistent exists only while it runs.
            libvirt.VIR_DOMAIN_EVENT_STARTED,
            libvirt.VIR_DOMAIN_EVENT_STOPPED,
            libvirt.VIR_DOMAIN_EVENT_CRASHED,
        ):
            self._note(("came_or_went", vm_id))
        elif event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED:
            self._note(("state", vm_id), ("migration", vm_id))
        else:
            self._note(("state", vm_id))

    # -- the connection's own thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        pause, attempt_at = FIRST_PAUSE, 0.0
        while True:
            with self._changed:
                while not (self._noted or self._closed or self._lost):
                    left = None if self._handle is not None else attempt_at - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                noted, self._noted = self._noted, {}
                lost, self._lost = self._lost, False
                closed = self._closed
            if lost:
                self.losses += 1
                logger.warning("the connection to %s is lost; everything of it is suspect", self.uri)
                self._let_go()
                pause, attempt_at = FIRST_PAUSE, 0.0
            self._carry_out(noted)
            if closed:
                return
            if self._handle is None and time.monotonic() >= attempt_at:
                if self._again():
                    self._note(SUSPECT)
                else:
                    # Spread, so that the clients of a host that comes back do not all come at once.
                    attempt_at = time.monotonic() + pause * (0.5 + SystemRandom().random())
                    pause = min(2 * pause, LAST_PAUSE)

    def _again(self) -> bool:
        try:
            handle = self._open()
        except HypervisorUnavailableError:
            return False
        logger.warning("%s is connected again", self.uri)
        self._handle = handle
        if self._closed:
            self._let_go()
        return True

    def _carry_out(self, noted: dict[Note, None]) -> None:
        if not noted:
            return
        for entries in self._subscribers:
            try:
                self._apply(entries, noted)
            except CacheClosedError:
                with self._changed:
                    self._subscribers = tuple(one for one in self._subscribers if one is not entries)
            except Exception:
                logger.exception("events of %s could not be carried out", self.uri)

    def _apply(self, entries: VMCacheManager, noted: dict[Note, None]) -> None:
        if SUSPECT in noted:
            entries.invalidate_cluster()
            return
        node = self.node_id
        with entries.events():
            for what, vm_id in noted:
                match what:
                    case "came_or_went":
                        entries.on_vm_created(vm_id, node)
                    case "state":
                        # What it was before is not told; it was active and still is.
                        entries.on_vm_state_change(vm_id, VMStatus.RUNNING, VMStatus.PAUSED, node)
                    case "rebooted":
                        entries.on_vm_rebooted(vm_id, node)
                    case "resources":
                        entries.on_vm_resource_change(vm_id, node)
                    case "config":
                        entries.on_vm_config_change(vm_id)
                    case "migration":
                        entries.on_vm_migration_change(vm_id)
