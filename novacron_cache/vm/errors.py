"""What can go wrong between an application and its hypervisors; facts are attributes."""

from __future__ import annotations

from novacron_cache import CacheError


class VMError(CacheError):
    """Base of the errors of this package.

    Attributes:
        vm_id: the VM concerned; empty where there is none.
    """

    def __init__(self, message: str, *, vm_id: str = "") -> None:
        super().__init__(message)
        self.vm_id = vm_id


class TransitionError(VMError):
    """A VM does not go from one status to the other."""


class UnknownVMError(VMError):
    """A change was asked for of a VM that does not exist; reads return None instead."""


class HypervisorError(VMError):
    """The hypervisor refused or failed.

    Attributes:
        code: its own number of the error, or None.
    """

    def __init__(self, message: str, *, vm_id: str = "", code: int | None = None) -> None:
        super().__init__(message, vm_id=vm_id)
        self.code = code


class HypervisorUnavailableError(HypervisorError):
    """There is no connection to the hypervisor now; it is being made anew in the background."""
