"""What `doctor` finds: each with a severity and, where something is to be done, the fix."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

__all__ = ["SEVERITIES", "Finding", "note", "ok", "problem", "warning"]

Severity: TypeAlias = Literal["ok", "note", "warning", "problem"]

SEVERITIES: Final = ("ok", "note", "warning", "problem")
"""From harmless to harmful: a note is worth knowing, a warning worth a change; a problem is what does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        check: what was looked at, such as `eviction`.
        severity: how bad it is.
        text: what was found.
        fix: what to do about it; empty where nothing has to be done.
        server: the server it is about; empty where it is about none.
    """

    check: str
    severity: Severity
    text: str
    fix: str = ""
    server: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def ok(check: str, text: str, server: str = "") -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", text, "", server)


def note(check: str, text: str, fix: str = "", server: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(check, "note", text, fix, server)


def warning(check: str, text: str, fix: str, server: str = "") -> Finding:
    """Return a finding that is worth a change."""
    return Finding(check, "warning", text, fix, server)


def problem(check: str, text: str, fix: str, server: str = "") -> Finding:
    """Return a finding that something does not work."""
    return Finding(check, "problem", text, fix, server)
