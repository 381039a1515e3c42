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

from .decoding import StoredReader, head_of, is_cut, read_stored
from .filling import Filled, Texts, fill
from .globs import MAX_GLOB_LENGTH, MAX_WILDCARDS, Glob, first_segment, glob_escape
from .stored import (
    MAX_STORED_LENGTH,
    bounded_key,
    dictionary_key,
    is_dictionary_key,
    newest_key,
    stored_key,
    stored_name,
    stored_text_key,
)
from .templates import KeyTemplate, Placeholder, is_written
from .values import percent_escape, printable, server_safe, server_unsafe

__all__ = [
    "MAX_GLOB_LENGTH",
    "MAX_STORED_LENGTH",
    "MAX_WILDCARDS",
    "Filled",
    "Glob",
    "KeyTemplate",
    "Placeholder",
    "StoredReader",
    "Texts",
    "bounded_key",
    "dictionary_key",
    "fill",
    "first_segment",
    "glob_escape",
    "head_of",
    "is_cut",
    "is_dictionary_key",
    "is_written",
    "newest_key",
    "percent_escape",
    "printable",
    "read_stored",
    "server_safe",
    "server_unsafe",
    "stored_key",
    "stored_name",
    "stored_text_key",
]
