"""Keys: the text users see and name, the text values are stored under, and the globs that match the first.

Theory. A *logical* key is plain text: each value of a template as an f-string writes it, so that whoever knows the id
can name the key. It may be ambiguous, for it only decides what an invalidation reaches, and reaching more is safe. A
*stored* key decides which value is served, so it must be injective: different names, templates or values never give the
same text. It holds because of its alphabet: text from outside is percent-escaped and never contains `<`, `>` or `~`;
`<` and `>` then enclose each value, and `~` begins each type tag and each delimiter.

One law binds the two: equal stored keys have equal logical texts. Otherwise an invalidation by one text would miss the
entry known by the other. Therefore a type without a stable text (a set's elements come in any order, an object prints
its address) is put in order or refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from hashlib import blake2b
from keyword import iskeyword
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, NoReturn
from uuid import UUID

from .errors import KeyValueError, TemplateError, nearest

MAX_GLOB_LENGTH: Final = 512
MAX_WILDCARDS: Final = 8
MAX_STORED_LENGTH: Final = 240
"""Characters of a stored key; a longer one is cut and ends in the digest of the whole."""


def first_segment(logical: str) -> str:
    """Return the text before the first ":", or the whole text where there is none."""
    return logical.partition(":")[0]


# --- globs ------------------------------------------------------------------------------------------------------------

_GLOB_TOKEN = re.compile(
    r"(?P<star>\*+)|(?P<one>\?)|\[(?![\^!]?\])(?P<negated>[\^!]?)(?P<set>(?:\\.|[^\]\\])+)\]"
    r"|\\(?P<escaped>.)|(?P<text>[^*?\[\\])",
    re.DOTALL,
)
_SET_ITEM = re.compile(r"(\\.|.)(?:-(\\.|.))?", re.DOTALL)
_GLOB_SPECIAL = re.compile(r"[\\*?\[\]]")


def glob_escape(text: str) -> str:
    """Return a glob that matches exactly this text."""
    return _GLOB_SPECIAL.sub(r"\\\g<0>", text)


class Glob:
    """A pattern over whole texts, case-sensitive, matched in time proportional to pattern times text.

    `*` stands for any run of characters (":" included), `?` for one, `[abc]`, `[a-z]`, `[^a]` and `[!a]` for one of a
    class; a backslash makes the next character literal.

    Attributes:
        pattern: the pattern as it was written.
        segment: the text `seg` where the pattern is `seg:*` and nothing else, so that the marker of a first segment
            can stand for it; else None.
        literal: the text that a pattern without wildcards matches; else None.

    Raises:
        TemplateError: the pattern is empty, malformed, longer than 512 characters or has more than 8 wildcards.
    """

    __slots__ = ("_fullmatch", "literal", "pattern", "segment")

    def __init__(self, pattern: str) -> None:
        if not pattern:
            raise TemplateError("the pattern is empty; write '*' to match every key", template=pattern)
        if len(pattern) > MAX_GLOB_LENGTH:
            message = f"a pattern has at most {MAX_GLOB_LENGTH} characters and this one {len(pattern)}; use a tag"
            raise TemplateError(message, template=pattern)
        # Pieces between stars are of fixed length, so the first place where one fits is as good as any later one and
        # an atomic group may keep it: nothing is ever tried twice.
        pieces, text, wildcards = [""], "", 0
        for kind, literal, regex in _glob_tokens(pattern):
            wildcards += kind != "text"
            text += literal
            if kind == "star":
                pieces.append("")
            else:
                pieces[-1] += regex
        if wildcards > MAX_WILDCARDS:
            message = f"pattern {pattern!r}: at most {MAX_WILDCARDS} wildcards, and this has {wildcards}; use a tag"
            raise TemplateError(message, template=pattern)
        first, *middle = pieces
        last = f".*{middle.pop()}" if middle else ""
        regex = first + "".join([f"(?>.*?{piece})" for piece in middle]) + last
        self._fullmatch = re.compile(regex, re.DOTALL).fullmatch
        self.pattern = pattern
        self.literal = text if not wildcards else None
        ends_in_star = wildcards == 1 and len(pieces) == 2 and not pieces[1]
        self.segment = text[:-1] if ends_in_star and text.find(":") == len(text) - 1 >= 0 else None

    def matches(self, text: str) -> bool:
        """Return whether the whole text fits the pattern."""
        return self._fullmatch(text) is not None

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"


def _glob_tokens(pattern: str) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, literal text, regex) for each token; a run of stars is one."""
    position = 0
    while position < len(pattern):
        token = _GLOB_TOKEN.match(pattern, position)
        if token is None:
            fix = "end it with `]`" if pattern[position] == "[" else "double it"
            what = "a class that is empty or not closed" if pattern[position] == "[" else "a trailing backslash"
            message = f"pattern {pattern!r}: {what}; {fix}, or write `\\{pattern[position]}` for the character itself"
            raise TemplateError(message, template=pattern)
        position = token.end()
        if token["set"]:
            yield "set", "", f"[{'^' * bool(token['negated'])}{_glob_set(token['set'], pattern)}]"
        elif token["star"]:
            yield "star", "", ""
        elif token["one"]:
            yield "one", "", "."
        else:
            literal = token["escaped"] or token["text"]
            yield "text", literal, re.escape(literal)


def _glob_set(content: str, pattern: str) -> str:
    parts = []
    for low, high in _SET_ITEM.findall(content):
        if high and high[-1] < low[-1]:
            message = f"pattern {pattern!r}: the range `{low}-{high}` is reversed; write `{high}-{low}`"
            raise TemplateError(message, template=pattern)
        parts.append(re.escape(low[-1]) + (f"-{re.escape(high[-1])}" if high else ""))
    return "".join(parts)


# --- escaping ---------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"[%<>~*?\[\]{}\\\s]")
_special_in = _SPECIAL.search
_SERVER_SPECIAL = re.compile(r"[%*?\[\]{}\\\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def percent_escape(text: str) -> str:
    r"""Return the text with `% < > ~ * ? [ ] { } \`, whitespace and everything unprintable as `%XX`; injective."""
    if text.isprintable() and _special_in(text) is None:
        return text
    return "".join([_percent(char) if not char.isprintable() or _SPECIAL.match(char) else char for char in text])


def server_safe(text: str) -> str:
    r"""Return user text as it may stand in a server's key: `{ } * ? [ ] \ %`, whitespace and controls as `%XX`.

    Injective. Hash tags and glob characters lose their meaning, and the result always encodes as UTF-8.
    """
    if _SERVER_SPECIAL.search(text) is None:
        return text
    return _SERVER_SPECIAL.sub(lambda match: _percent(match[0]), text)


def _percent(char: str) -> str:
    return "".join([f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass")])


@lru_cache(maxsize=4096)
def _stored_name(name: str) -> str:
    return percent_escape(name).replace(":", "%3A")


# --- values -----------------------------------------------------------------------------------------------------------


class _UnstableError(Exception):
    """A value, or one inside it, has no stable text."""

    def __init__(self, value: object, fix: str = "") -> None:
        super().__init__(value)
        self.value = value
        self.fix = fix


def _encode(value: Any) -> str:
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Enum):
        member = f"~{_encode(value.value)}" if value.name is None else percent_escape(value.name)
        return f"~e{_class(value)}~.{member}"
    return _encode_subclass(value)


def _encode_subclass(value: Any) -> str:
    """Encode an instance of a mere renaming of a scalar type, with its class; refuse any other subclass.

    What adds state or its own text or equality may differ where its base does not.
    """
    for base in _SCALARS:
        if isinstance(value, base):
            same = all(getattr(type(value), name) is getattr(base, name) for name in _TEXT_AND_EQUALITY)
            if not same or object.__getstate__(value) is not None:
                raise _UnstableError(value, f"pass a plain {base.__name__}")
            return f"~c{_class(value)}~.{_ENCODERS[base](value)}"
    raise _UnstableError(value)


def _encode_moment(value: datetime | time) -> str:
    # The fold and the zone are no part of the text, but two zones may agree at this moment and differ at the next.
    tag = "~D" if isinstance(value, datetime) else "~T"
    return f"{tag}{value.isoformat()};{value.fold};{_zone(value.tzinfo)}"


def _zone(zone: tzinfo | None) -> str:
    if zone is not None and type(zone).__repr__ is object.__repr__:
        raise _UnstableError(zone, "use a zoneinfo.ZoneInfo or a datetime.timezone")
    return "" if zone is None else percent_escape(repr(zone))


def _encode_sequence(value: Collection[Any]) -> str:
    items = [f"{_encode(item)}~," for item in value]
    if isinstance(value, set | frozenset):
        items.sort()
    return f"{_OPENINGS[type(value)]}{''.join(items)}~)"


def _class(value: object) -> str:
    return percent_escape(f"{type(value).__module__}.{type(value).__qualname__}")


def _encode_path(value: PurePath) -> str:
    return f"~p{type(value).__name__}~.{percent_escape(str(value))}"


_TEXT_AND_EQUALITY = ("__str__", "__repr__", "__format__", "__eq__", "__hash__")
_OPENINGS: dict[type, str] = {tuple: "~(", list: "~l", set: "~s", frozenset: "~z"}
# No tag is `~h`, which begins the digest of a long key.
_ENCODERS: dict[type, Callable[[Any], str]] = {
    str: percent_escape,
    bool: lambda value: "~t" if value else "~f",
    int: lambda value: f"~i{value}",
    type(None): lambda _: "~n",
    float: lambda value: f"~d{value!r}",
    bytes: lambda value: f"~b{value.hex()}",
    UUID: lambda value: f"~u{value.hex}",
    Decimal: lambda value: f"~N{value}",
    datetime: _encode_moment,
    time: _encode_moment,
    date: lambda value: f"~Y{value.isoformat()}",
    timedelta: lambda value: f"~P{value.days};{value.seconds};{value.microseconds}",
    **dict.fromkeys((PurePosixPath, PosixPath, PureWindowsPath, WindowsPath), _encode_path),
    **dict.fromkeys(_OPENINGS, _encode_sequence),
}
_SCALARS: Final = tuple(kind for kind in _ENCODERS if kind not in _OPENINGS)


def _text(value: Any) -> str:
    """Return what `f"{value}"` gives, with the elements of a set in order; refuse what has no stable text."""
    kind = type(value)
    if kind not in _ENCODERS or kind in _OPENINGS or isinstance(value, datetime | time):
        _encode(value)
    return _container_text(value) if kind in _OPENINGS else f"{value}"


def _container_text(value: Any) -> str:
    items = [_container_text(item) for item in value] if (kind := type(value)) in _OPENINGS else []
    if kind is tuple:
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if kind is list:
        return f"[{', '.join(items)}]"
    if kind in _OPENINGS:
        inside = f"{{{', '.join(sorted(items))}}}" if items else ""
        return f"frozenset({inside})" if kind is frozenset else inside or "set()"
    return repr(value)


# --- templates --------------------------------------------------------------------------------------------------------

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

    def build(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> str:
        """Return the logical text for named values; raises what `values` and `render` raise."""
        return self.render(self.values({**(mapping or {}), **values}))

    def glob(self, values: Mapping[str, Any]) -> str:
        """Return the template as a glob: wildcards of the template count, those in values are escaped.

        Raises:
            TemplateError: a placeholder stands inside a class or behind a backslash; or what `values` raises.
            KeyValueError: what `render` raises.
        """
        for literal in self.literals:
            try:
                for _ in _glob_tokens(literal):
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
        shortest, longest = (pattern.fullmatch(text) for pattern in self._patterns)
        # The first fit when groups start short and the first when they start long are the two ends of the order of
        # all fits: where they agree, there is no other.
        if shortest is None or longest is None or shortest.groups() != longest.groups():
            return None
        names = dict.fromkeys(placeholder.name for placeholder in self.placeholders)
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
            return _text(value)
        except (_UnstableError, ValueError, RecursionError) as error:
            raise self._refusal(placeholder, value, error) from None

    def _refusal(self, placeholder: Placeholder, value: Any, error: Exception) -> KeyValueError:
        culprit, fix = (error.value, error.fix) if isinstance(error, _UnstableError) else (value, str(error))
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


def _source(literal: str) -> str:
    escaped = literal.encode("unicode_escape").decode("ascii").replace("'", r"\'")
    return escaped.replace("{", "{{").replace("}", "}}")


# --- stored keys ------------------------------------------------------------------------------------------------------


def stored_key(name: str, template: KeyTemplate, values: tuple[Any, ...]) -> str:
    """Return the text a value is stored under: different names, skeletons or values never give the same.

    Args:
        name: the name of the model or function; may be empty.
        template: the key's template. Templates that differ in the names of placeholders alone share their entries.
        values: what `template.values` returned. A subclass of a scalar type is told apart by its class's full name,
            and so are enum members.

    Returns:
        Printable text without whitespace or glob characters, of at most 240 characters; a longer one ends in a digest.

    Raises:
        KeyValueError: a value has no stable text. Converters are not checked here but in `render`.
    """
    if len(values) != len(template.placeholders):
        template._fail_count(values)
    parts = [_stored_name(name), template._opening]
    try:
        for value, separator in zip(values, template._separators, strict=True):
            parts.append(percent_escape(value) if type(value) is str else _encode(value))
            parts.append(separator)
    except (_UnstableError, ValueError, RecursionError) as error:
        position = len(parts) // 2 - 1
        raise template._refusal(template.placeholders[position], values[position], error) from None
    return _bounded("".join(parts))


def stored_text_key(name: str, logical: str) -> str:
    """Return the stored key of a value that is named by its logical key alone; never that of a template."""
    return _bounded(f"{_stored_name(name)}:~k{percent_escape(logical)}")


def _bounded(text: str) -> str:
    if len(text) <= MAX_STORED_LENGTH:
        return text
    digest = f"~h{blake2b(text.encode(), digest_size=20).hexdigest()}"
    return text[: MAX_STORED_LENGTH - len(digest)] + digest
