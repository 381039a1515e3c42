"""A progress bar on the error stream: drawn on a terminal, and nowhere else, so that output can be piped and logged."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Shows how far a command is, while it is used as a context.

    Args:
        description: what is being done.
        total: what `to` counts up to; None where that is not known.
        quiet: whether to show nothing, as with `--json`.
    """

    def __init__(self, description: str, total: float | None = 1.0, *, quiet: bool = False) -> None:
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(description, total=total)

    def to(self, completed: float, description: str | None = None) -> None:
        """Show that it has come so far."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, description=description)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
