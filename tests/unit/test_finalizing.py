"""What is done when an object has gone, and not at the end of the interpreter."""

from __future__ import annotations

import gc
import subprocess
import sys

from novacron_cache.finalizing import when_gone


class Owner:
    pass


def test_the_action_is_done_once_the_object_has_gone() -> None:
    done: list[str] = []
    owner = Owner()
    when_gone(owner, done.append, "gone")
    assert done == []
    del owner
    gc.collect()
    assert done == ["gone"]


def test_a_finalizer_that_was_called_does_not_act_again() -> None:
    done: list[str] = []
    owner = Owner()
    finalizer = when_gone(owner, done.append, "gone")
    finalizer()
    del owner
    gc.collect()
    assert done == ["gone"]


def test_a_detached_finalizer_never_acts() -> None:
    done: list[str] = []
    owner = Owner()
    when_gone(owner, done.append, "gone").detach()
    del owner
    gc.collect()
    assert done == []


def test_the_end_of_the_interpreter_is_no_reason_to_act() -> None:
    program = "from novacron_cache.finalizing import when_gone\nwhen_gone(print, print, 'acted')\nprint('begun')"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.split() == ["begun"]
