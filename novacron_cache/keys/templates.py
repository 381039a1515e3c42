"""Templates of keys and tags, parsed once at declaration, so that a mistake is found there and a call only fills in.

What is not a placeholder is text, and a placeholder names a value and nothing more: no calls, no formats. So a template
does more than render: it can be read backwards (`match`), as a pattern (`glob`) and as Python source
(`logical_source`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from keyword import iskeyword
from pathlib import PurePath
from typing import Any, Final, NoReturn
from uuid import UUID

from ..errors import KeyValueError, TemplateError, nearest
from .globs import glob_escape, glob_tokens
from .values import UnstableError, encode_value, is_plain, percent_escape, value_text

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# For each converter: its shortest-first and its longest-first form.
_FORMS: Final = {
    "": (r"[^:]*?", r"[^:]*"),
    "int": (r"(?:0|-??[1-9][0-9]*?)", r"(?:0|-?[1-9][0-9]*)"),
    "path": (r".*?", r".*"),
    "str": (r"[^:]*?", r"[^:]*"),
    "uuid": (_UUID, _UUID),
}
_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "int": (lambda value: type(value) is int, "an int"),
    "path": (lambda value: isinstance(value, str | PurePath), "a str or a path"),
    "str": (lambda value: isinstance(value, str), "a str"),
    "uuid": (
        lambda value: isinstance(value, UUID) or (isinstance(value, str) and bool(re.fullmatch(_UUID, value))),
        "a uuid.UUID or its canonical text",
    ),
}
_CONVERTERS: Final = tuple(_CHECKS)
_AS_IT_IS: Final = frozenset({(str, ""), (str, "str"), (str, "path"), (int, ""), (int, "int")})
"""Types of which a converter, or none, takes every value."""
_AS_WRITTEN: Final = frozenset({str, int})
"""Types whose values are written as `%s` writes them."""
MAX_HEADS: Final = 1024

_heads: set[str] = set()
_TOKEN = re.compile(r"(?P<text>[^<>]+|<<|>>)|<(?P<inside>[^<>]*)>")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One `<...>` of a template.

    Attributes:
        root: the parameter or field.
        attributes: the attributes read from it, in order.
        converter: `"int"`, `"path"`, `"str"`, `"uuid"`, or an empty string.
        text: the placeholder as it was written, brackets included.
    """

    root: str
    attributes: tuple[str, ...]
    converter: str
    text: str

    @property
    def name(self) -> str:
        """The root and the attributes with dots between: Python source of the value."""
        return ".".join((self.root, *self.attributes))


_IN_BRACES = re.compile(r"\{(?P<root>[^\W\d]\w*)(?:\.\w+)*\}")


class KeyTemplate:
    """A key or tag with placeholders such as `vm:<vm_id>`, `vm:<vm.id>` or `vm:<int:n>`; `<<` and `>>` are brackets.

    A converter checks its value and never changes the text: `int` takes an int, `uuid` a `UUID` or its canonical text,
    `str` a str, and `path` a str or a path, in which `match` also accepts ":".

    Attributes:
        text: the template as it was written.
        label: what it is, for messages: `"key"` or `"tag"`.
        placeholders: the placeholders in order; a name may occur twice.
        roots: the parameters or fields it needs.
        literals: the text around the placeholders, one part more than there are placeholders.
        skeleton: the template without the names, such as `vm:<>:disk:<int:>`.
    """

    def __init__(self, text: str, label: str = "key") -> None:
        if not isinstance(text, str):
            raise TemplateError(f"{label}={text!r}: a template is text, such as 'vm:<vm_id>'", template=repr(text))
        self.text = text
        self.label = label
        if not text:
            self._fail("the template is empty; write text such as 'vm:<vm_id>'")
        literals, placeholders, position = [""], [], 0
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                self._fail_bracket(position)
            if token["text"] is None:
                placeholders.append(self._placeholder(token["inside"]))
                literals.append("")
            else:
                literals[-1] += {"<<": "<", ">>": ">"}.get(token["text"], token["text"])
            position = token.end()
        self.placeholders: tuple[Placeholder, ...] = tuple(placeholders)
        self.literals: tuple[str, ...] = tuple(literals)
        self.roots: frozenset[str] = frozenset(placeholder.root for placeholder in placeholders)
        written = [literal.replace("<", "<<").replace(">", ">>") for literal in literals]
        holes = [f"<{p.converter}:>" if p.converter else "<>" for p in placeholders]
        self.skeleton = "".join(part for pair in zip(written, [*holes, ""], strict=True) for part in pair)
        self._opening, self._separators = self._stored_literals()
        self._formats: tuple[str, str, tuple[str, ...]] | None = None
        if not any(placeholder.attributes or placeholder.converter for placeholder in placeholders):
            logical = "%s".join([literal.replace("%", "%%") for literal in literals])
            injective = "%s".join([text.replace("%", "%%") for text in (self._opening, *self._separators)])
            self._formats = logical, injective, tuple([placeholder.root for placeholder in placeholders])
        self._alone: tuple[str, str, str, str, str] | None = None
        if self._formats is not None and len(placeholders) == 1:
            # Most keys have one value: it is put between what stands around it.
            self._alone = placeholders[0].root, literals[0], literals[1], self._opening, self._separators[0]
        head, colon, _ = literals[0].partition(":")
        if placeholders and colon and len(_heads) < MAX_HEADS:
            _heads.add(head)

    @classmethod
    def parse(cls, text: str, *, label: str = "key") -> KeyTemplate:
        """Return the template of a text; the same object for the same text and label while it is cached.

        Raises:
            TemplateError: the template is malformed; the message says the fix.
        """
        return _parse(text, label) if isinstance(text, str) else cls(text, label)

    def check(
        self,
        names: Collection[str],
        *,
        owner: str,
        label: str | None = None,
        kind: str = "parameter",
        unused_ok: bool | Collection[str] = True,
    ) -> None:
        """Compare the placeholders with the names that will have values.

        Args:
            names: the parameters of a function or the fields of a model.
            owner: the function's or the model's name.
            label: what the template is, for the message; None takes the template's own label.
            kind: what a name is, for the message.
            unused_ok: whether names may be missing from the template: True, False, or those that may.

        Raises:
            TemplateError: a placeholder names nothing, or a name is unused that must be used.
        """
        self.refuse_braces(names, owner=owner, kind=kind, label=label)
        for placeholder in self.placeholders:
            if placeholder.root not in names:
                fix = nearest(placeholder.root, names).replace("'", "`")
                if not fix:
                    fix = f"; it has {', '.join(f'`{name}`' for name in names)}" if names else "; it has none"
                self._fail(f"`{owner}` has no {kind} `{placeholder.root}`{fix}", label)
        allowed = names if unused_ok is True else unused_ok or ()
        for name in names:
            if name not in self.roots and name not in allowed:
                self._fail(f"{kind} `{name}` of `{owner}` is not in it; add `<{name}>` or ignore=[{name!r}]", label)

    def refuse_braces(
        self, names: Collection[str], *, owner: str, kind: str = "parameter", label: str | None = None
    ) -> None:
        """Refuse a name in braces where it would be filled in brackets: as text, it would be the same for all values.

        The arguments are those of `check`.

        Raises:
            TemplateError: there is one.
        """
        for literal in self.literals:
            for found in _IN_BRACES.finditer(literal):
                if found["root"] in names:
                    self._fail(
                        f"`{found[0]}` is text, not the {kind} `{found['root']}` of `{owner}`; write "
                        f"`<{found[0][1:-1]}>`, with these brackets",
                        label,
                    )

    def values(self, mapping: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the value of each placeholder, attributes read.

        Raises:
            TemplateError: the mapping lacks a name.
            KeyValueError: a value lacks an attribute.
        """
        return tuple([self._value(placeholder, mapping) for placeholder in self.placeholders])

    def render(self, values: tuple[Any, ...]) -> str:
        """Return the logical text: each value as an f-string writes it, the elements of a set in order.

        Raises:
            KeyValueError: a value has no stable text, or is not what its converter takes.
        """
        if len(values) != len(self.placeholders):
            self._fail_count(values)
        parts = [self.literals[0]]
        for placeholder, value, literal in zip(self.placeholders, values, self.literals[1:], strict=True):
            plain = type(value) is str and not placeholder.converter
            parts += (value if plain else self._converted(placeholder, value), literal)
        return "".join(parts)

    def encode(self, values: tuple[Any, ...]) -> str:
        """Return the injective text of the values within the template: the body of a stored key, however long.

        Raises:
            KeyValueError: a value has no stable text. Converters are not checked here but in `render`.
        """
        if len(values) != len(self.placeholders):
            self._fail_count(values)
        parts = [self._opening]
        try:
            for value, separator in zip(values, self._separators, strict=True):
                parts.append(percent_escape(value) if type(value) is str else encode_value(value))
                parts.append(separator)
        except (UnstableError, ValueError, RecursionError) as error:
            position = len(parts) // 2
            raise self._refusal(self.placeholders[position], values[position], error) from None
        return "".join(parts)

    def around(self, root: str, kind: type, mapping: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
        """Return the plain and the injective text around each place of a root, with all others filled in.

        Joined by the texts of a value, they are what `render` and `encode` give.

        Args:
            root: the root that is left open.
            kind: the type of its values.
            mapping: the values of the others.

        Returns:
            None where a value of the open root is not written as it is.

        Raises:
            TemplateError: the mapping lacks a name.
            KeyValueError: a value has no stable text, or is not what its converter takes.
        """
        plain, injective = [self.literals[0]], [self._opening]
        for placeholder, literal, separator in zip(self.placeholders, self.literals[1:], self._separators, strict=True):
            if placeholder.root == root:
                if placeholder.attributes or (kind, placeholder.converter) not in _AS_IT_IS:
                    return None
                plain.append(literal)
                injective.append(separator)
                continue
            value = self._value(placeholder, mapping)
            plain[-1] += self._converted(placeholder, value) + literal
            injective[-1] += encode_value(value) + separator
        return plain, injective

    def texts(self, mapping: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return what `render` and `encode` give where each value is text that stands as it is; None for all others."""
        if (alone := self._alone) is not None:
            name, before, after, opening, closing = alone
            value = mapping.get(name)  # where it is not there, `values` says what is wrong
            if type(value) is not str or not is_plain(value):
                return None
            return f"{before}{value}{after}", f"{opening}{value}{closing}"
        if self._formats is None:
            return None
        logical, injective, names = self._formats
        try:
            values = tuple([mapping[name] for name in names])
        except KeyError:
            return None  # `values` says what is wrong
        for value in values:
            if type(value) is not str or not is_plain(value):
                return None
        return logical % values, injective % values

    def build(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> str:
        """Return the logical text for named values; raises what `values` and `render` raise."""
        given = {**(mapping or {}), **values} if values or mapping is None else mapping
        if self._formats is not None:
            logical, _, names = self._formats
            found = tuple([given.get(name) for name in names])
            if _AS_WRITTEN.issuperset(map(type, found)):
                try:
                    return logical % found
                except ValueError:  # an int of too many digits
                    return self.render(found)
        return self.render(self.values(given))

    def glob(self, values: Mapping[str, Any]) -> str:
        """Return the template as a glob: wildcards of the template count, those in values are escaped.

        Raises:
            TemplateError: a placeholder stands inside a class or behind a backslash; or what `values` raises.
            KeyValueError: what `render` raises.
        """
        for literal in self.literals:
            try:
                for _ in glob_tokens(literal):
                    pass
            except TemplateError as error:
                self._fail(f"around a placeholder, {error}")
        parts = [self.literals[0]]
        for placeholder, value, literal in zip(self.placeholders, self.values(values), self.literals[1:], strict=True):
            parts += (glob_escape(self._converted(placeholder, value)), literal)
        return "".join(parts)

    def match(self, text: str) -> dict[str, str] | None:
        """Return the text of each placeholder by name, or None where the text does not fit in exactly one way.

        A value contains no ":" unless its converter is `path`.
        """
        if (name := self._lone_name) is not None:
            before, after = self.literals
            value = text[len(before) : len(text) - len(after)]
            return {name: value} if text == before + value + after and ":" not in value else None
        shortest, longest = (pattern.fullmatch(text) for pattern in self._patterns)
        # The first fit when groups start short and the first when they start long are the two ends of the order of
        # all fits: where they agree, there is no other.
        if shortest is None or longest is None or shortest.groups() != longest.groups():
            return None
        names = dict.fromkeys(self.expressions())
        found = dict(zip(names, shortest.groups(), strict=True))
        for placeholder in self.placeholders:
            if not re.fullmatch(_FORMS[placeholder.converter][1], found[placeholder.name], re.DOTALL):
                return None
        return found

    def expressions(self) -> tuple[str, ...]:
        """Return Python source of each placeholder's value in terms of the roots."""
        return tuple([placeholder.name for placeholder in self.placeholders])

    def logical_source(self) -> str:
        """Return Python source of an f-string that gives the logical text in terms of the roots.

        It checks nothing and leaves sets in any order: it stands for `render` only where no placeholder has a
        converter and no value is a container.
        """
        literals = [_source(literal) for literal in self.literals]
        holes = [*(f"{{{expression}}}" for expression in self.expressions()), ""]
        return f"f'{''.join(part for pair in zip(literals, holes, strict=True) for part in pair)}'"

    def __repr__(self) -> str:
        return f"KeyTemplate({self.text!r})"

    def __str__(self) -> str:
        return self.text

    @cached_property
    def _lone_name(self) -> str | None:
        """The name of the only placeholder, where any text without ":" fits it."""
        if len(self.placeholders) != 1 or self.placeholders[0].converter not in ("", "str"):
            return None
        return self.placeholders[0].name

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return self._pattern(0), self._pattern(1)

    def _pattern(self, form: int) -> re.Pattern[str]:
        groups: dict[str, int] = {}
        regex = re.escape(self.literals[0])
        for placeholder, literal in zip(self.placeholders, self.literals[1:], strict=True):
            if placeholder.name in groups:
                regex += f"(?P=p{groups[placeholder.name]})"
            else:
                number = groups[placeholder.name] = len(groups)
                regex += f"(?P<p{number}>{_FORMS[placeholder.converter][form]})"
            regex += re.escape(literal)
        return re.compile(regex, re.DOTALL)

    def _stored_literals(self) -> tuple[str, list[str]]:
        # The converter's `~:` keeps it apart from text: no value and no literal contains that pair.
        literals = [percent_escape(literal) for literal in self.literals]
        opened = [f"<{p.converter}~:" if p.converter else "<" for p in self.placeholders] + [""]
        literals[0] = ":" + literals[0]
        opening, *separators = [literal + bracket for literal, bracket in zip(literals, opened, strict=True)]
        return opening, [">" + separator for separator in separators]

    def _placeholder(self, inside: str) -> Placeholder:
        text = f"<{inside}>"
        converter, colon, name = inside.rpartition(":")
        if not name:
            self._fail(f"`{text}` names nothing; write a name such as `<vm_id>`, or `<<` and `>>` for brackets")
        if colon and converter not in _CONVERTERS:
            if name in _CONVERTERS and converter.isidentifier():
                self._fail(f"the converter comes first; write `<{name}:{converter}>`")
            known = nearest(converter, _CONVERTERS) or f"; known are {', '.join(_CONVERTERS)}"
            self._fail(f"unknown converter `{converter}` in `{text}`{known}")
        # The compiler normalises names in source in this way; parameters and attributes are known by the result.
        root, *attributes = unicodedata.normalize("NFKC", name).split(".")
        for part in (root, *attributes):
            if iskeyword(part):
                self._fail(f"`{part}` in `{text}` is a Python keyword, which names nothing; rename it to `{part}_`")
            if not part.isidentifier():
                advice = re.sub(r"\W+", "_", part).strip("_")
                fix = f"`{advice}`" if advice.isidentifier() else "a parameter's name, such as `vm_id`"
                self._fail(f"`{part}` in `{text}` is not an identifier; write {fix}")
        for part in attributes:
            if part.startswith("_"):
                self._fail(f"attribute `{part}` in `{text}` is private; use a public one")
        return Placeholder(root, tuple(attributes), converter, text)

    def _value(self, placeholder: Placeholder, mapping: Mapping[str, Any]) -> Any:
        if placeholder.root not in mapping:
            given = nearest(placeholder.root, mapping) or f"; pass {placeholder.root}=..."
            self._fail(f"no value for `{placeholder.text}`{given}")
        value = mapping[placeholder.root]
        for attribute in placeholder.attributes:
            try:
                value = getattr(value, attribute)
            except AttributeError as error:
                message = (
                    f"`{placeholder.text}` of {self.label} {self.text!r}: a {type(value).__name__} object has no "
                    f"attribute `{attribute}`{nearest(attribute, [name for name in dir(value) if name[0] != '_'])}"
                )
                raise KeyValueError(message, placeholder=placeholder.text, value_type=type(value)) from error
        return value

    def _converted(self, placeholder: Placeholder, value: Any) -> str:
        if placeholder.converter:
            accepts, wanted = _CHECKS[placeholder.converter]
            if not accepts(value):
                message = (
                    f"`{placeholder.text}` of {self.label} {self.text!r} takes {wanted}, not {value!r} "
                    f"({type(value).__name__}); convert it, or write `<{placeholder.name}>`"
                )
                raise KeyValueError(message, placeholder=placeholder.text, value_type=type(value))
        try:
            return value_text(value)
        except (UnstableError, ValueError, RecursionError) as error:
            raise self._refusal(placeholder, value, error) from None

    def _refusal(self, placeholder: Placeholder, value: Any, error: Exception) -> KeyValueError:
        culprit, fix = (error.value, error.fix) if isinstance(error, UnstableError) else (value, str(error))
        got = f"a {type(culprit).__name__} object"
        if culprit is not value:
            got = f"a {type(value).__name__} object that holds {got}"
        elif not fix and not isinstance(value, Mapping | bytearray):
            known = getattr(value, "__dict__", {})
            usual = [name for name in ("id", f"{placeholder.root}_id", "uuid", "name") if name in known]
            fix = f"use an attribute such as `<{placeholder.name}.{(usual or ['id'])[0]}>`"
        fix = fix or "pass what identifies it instead, such as an id"
        message = f"`{placeholder.text}` of {self.label} {self.text!r} got {got}, which has no stable text; {fix}"
        return KeyValueError(message, placeholder=placeholder.text, value_type=type(value))

    def _fail_count(self, values: tuple[Any, ...]) -> NoReturn:
        self._fail(f"it takes {len(self.placeholders)} values and got {len(values)}; use `values` to collect them")

    def _fail_bracket(self, position: int) -> NoReturn:
        if self.text[position] == ">":
            self._fail(f"stray `>` at character {position + 1}; write `>>` for a literal bracket")
        opened = self.text[position + 1 :].partition("<")[0]
        self._fail(f"`<{opened}` is not closed; add `>`, or write `<<` for a literal bracket")

    def _fail(self, message: str, label: str | None = None) -> NoReturn:
        raise TemplateError(f"{label or self.label}={self.text!r}: {message}", template=self.text)


_parse = lru_cache(maxsize=2048)(KeyTemplate)


def is_written(segment: str) -> bool:
    """Return whether a template of this process spells out this first segment, so that it is nobody's data."""
    return segment in _heads


def _source(literal: str) -> str:
    escaped = literal.encode("unicode_escape").decode("ascii").replace("'", r"\'")
    return escaped.replace("{", "{{").replace("}", "}}")
