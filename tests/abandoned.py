"""Tasks whose loop is closed while they wait, as a program leaves them that ends a loop without ceremony.

Nothing can end such a task any more. At its end the interpreter would tell of it as of one that was lost, wherever that
happens to be, so the test that has left it lets go of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def waiting_in_a_closed_loop(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Return a task that has begun in a loop of its own and waits there, the loop being closed."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return task


def let_go(task: asyncio.Task[Any]) -> None:
    """Close what a task of a closed loop runs, and have nobody told that the task was pending."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # there is no public way
    task.get_coro().close()  # type: ignore[union-attr]  # of a task there is one
