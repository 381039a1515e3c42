"""One error for whatever is wrong: it names each setting or variable, and no secret is in its text or its cause.

Pydantic's own error keeps the values as they were given, passwords among them, and tracebacks and reports print it. So
it is taken apart here and left behind; what is raised holds what may be shown and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..errors import SettingsError, nearest
from .environment import MODELS, NESTED, Origins, rows, section_of, variable_name
from .values import HIDDEN, redact


class FieldError(ValueError):
    """What a validator over several fields raises: it knows which one the reader has to change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def checked(make: Callable[..., None], kind: type[BaseModel], values: dict[str, Any]) -> None:
    """Run a constructor with these values.

    Raises:
        SettingsError: a value is wrong.
    """
    try:
        make(**values)
        return
    except ValidationError as error:
        problem = problem_of(kind, error)
    # Raised out here, lest the original, which holds the values as they were given, stays on as its context.
    raise problem


def problem_of(kind: type[BaseModel], error: ValidationError, origins: Origins | None = None) -> SettingsError:
    """Return the error to raise instead: it names what is wrong, and nothing in it holds a secret.

    Args:
        kind: the class that was to be constructed.
        error: what pydantic found.
        origins: where the values came from; None where they were arguments.
    """
    lines: list[str] = []
    causes: list[InitErrorDetails] = []
    variable = ""
    for found in error.errors(include_url=False):
        wrong = found.get("ctx", {}).get("error")
        path = (*found["loc"], wrong.field) if isinstance(wrong, FieldError) else found["loc"]
        names = tuple(str(part) for part in path)
        section, field = _field(kind, names)
        if origins is None:
            variable = label = ".".join(names)
            shown = _shown(found["input"], field)
        else:
            variable, label, shown = _source(names, field, origins)
        reason = found["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if found["type"] == "extra_forbidden":
            alone = origins is not None and label == variable
            near = _nearest_variable(kind, names, section) if alone else nearest(names[-1], section.model_fields)
            reason = f"unknown setting{near}"
        lines.append(f"{label}={shown}: {reason}" if shown else f"{label}: {reason}")
        details = PydanticCustomError(cast("Any", found["type"]), "{reason}", {"reason": reason})
        causes.append(InitErrorDetails(type=details, loc=path, input=shown or HIDDEN))
    message = lines[0] if len(lines) == 1 else f"{len(lines)} settings are wrong:\n  " + "\n  ".join(lines)
    problem = SettingsError(message, variable=variable if len(lines) == 1 else None)
    problem.__cause__ = ValidationError.from_exception_data(kind.__name__, causes, hide_input=True)
    return problem


def _field(kind: type[BaseModel], path: tuple[str, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the section in which a path ends and the field it names there; None for a name that does not exist."""
    field: FieldInfo | None = None
    parts = iter(path)
    for part in parts:
        field = kind.model_fields.get(part)
        if not (inner := section_of(field)):
            break
        if part == MODELS:
            next(parts, None)
        kind = inner
    return kind, field


def _shown(value: Any, field: FieldInfo | None) -> str | None:
    """Return a value as an error may quote it; None for secrets, sections, and names that may be misspelt secrets."""
    if field is None or section_of(field) or "Secret" in str(field.annotation):
        return None
    if isinstance(value, str):
        return repr(redact(value))
    return repr(value) if isinstance(value, int | float | timedelta) else None


def _source(names: tuple[str, ...], field: FieldInfo | None, origins: Origins) -> tuple[str, str, str | None]:
    """Return the variable behind a path, how to call it in a message, and its text where it may be quoted."""
    for end in range(len(names), 0, -1):
        if origin := origins.get(names[:end]):
            if origin.text is None and names[end:]:
                return origin.variable, f"{origin.variable} ({'.'.join(names[end:])})", None
            return origin.variable, origin.variable, _shown(origin.text, field)
    return variable_name(names), variable_name(names), None


def _nearest_variable(kind: type[BaseModel], names: tuple[str, ...], section: type[BaseModel]) -> str:
    known = set(section.model_fields)
    if len(names) == 1:  # whoever forgot the section's name finds it here
        known |= {row.sets.replace(".", NESTED) for row in rows(kind)}
    near = nearest(names[-1], known)
    return re.sub(r"'(\w+)'", lambda match: repr(variable_name((*names[:-1], match[1]))), near)
