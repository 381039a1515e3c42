"""The table of events says what there is: the kinds, the classes and their fields, in the order of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from novacron_cache import events

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def rows() -> list[tuple[str, str, list[str]]]:
    """Return (kind, class, fields) of each row of the table of events."""
    table = PAGE.read_text().partition("## All of them")[2].partition("## ")[0]
    cells = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `")]
    return [(_code(kind)[0], _code(name)[0], _code("".join(rest))) for kind, name, _, *rest in cells]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_event_has_its_row() -> None:
    assert rows() == [
        (kind, event.__name__, [field.name for field in fields(event)]) for kind, event in events.EVENTS.items()
    ]


def test_every_field_is_explained() -> None:
    section = PAGE.read_text().partition("## What the fields hold")[2]
    explained = {name for line in section.splitlines() if line.startswith("`") for name in _code(line)}
    assert {name for *_, names in rows() for name in names} <= explained


def test_every_event_is_in_the_reference() -> None:
    reference = (PAGE.parent / "reference.md").read_text()
    members = re.search(r"::: novacron_cache\.events\n.*?members:\s*\[(.*?)\]", reference, re.DOTALL)
    assert members is not None
    assert [name.strip() for name in members[1].split(",")] == [event.__name__ for event in events.EVENTS.values()]
