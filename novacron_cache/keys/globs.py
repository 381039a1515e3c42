"""Globs over logical keys, in a language small enough to be safe: no pattern makes a match slow.

An invalidation by pattern runs in every process of the fleet against whatever keys users made, so a pattern must never
cost more than its length times the text's. Neither a regular expression of the user's nor a translation without
bounds could promise that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..errors import TemplateError

MAX_GLOB_LENGTH: Final = 512
MAX_WILDCARDS: Final = 8

_GLOB_TOKEN = re.compile(
    r"(?P<star>\*+)|(?P<one>\?)|\[(?![\^!]?\])(?P<negated>[\^!]?)(?P<set>(?:\\.|[^\]\\])+)\]"
    r"|\\(?P<escaped>.)|(?P<text>[^*?\[\\])",
    re.DOTALL,
)
_SET_ITEM = re.compile(r"(\\.|.)(?:-(\\.|.))?", re.DOTALL)
_GLOB_SPECIAL = re.compile(r"[\\*?\[\]]")


def first_segment(logical: str) -> str:
    """Return the text before the first ":", or the whole text where there is none."""
    return logical.partition(":")[0]


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
        for kind, literal, regex in glob_tokens(pattern):
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


def glob_tokens(pattern: str) -> Iterator[tuple[str, str, str]]:
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
