"""Values to bytes and back: the codecs, and the envelope that says what the bytes are.

Importing the package registers the codecs that come with it.
"""

from __future__ import annotations

from .base import Adapter, Codec, codec_named, codec_numbered, register
from .compression import Compression, compression_named
from .dictionaries import MAX_BYTES as MAX_DICTIONARY_BYTES
from .dictionaries import Dictionaries, Dictionary
from .envelope import Header, Pipeline, make_pipeline, written_as
from .layout import EXPIRES_AT, IDS_BEFORE, IDS_END, KEY_ID_AT, TAGS_AT
from .packing import MSGPACK, PLAIN_VALUES, MsgpackCodec, PlainCodec
from .pickled import PICKLE, PickleCodec
from .skimming import Form, Skimmed, Skimmer, packed_time, read_ids, read_tags, read_times
from .text import JSON, JsonCodec

__all__ = [
    "EXPIRES_AT",
    "IDS_BEFORE",
    "IDS_END",
    "JSON",
    "KEY_ID_AT",
    "MAX_DICTIONARY_BYTES",
    "MSGPACK",
    "PICKLE",
    "PLAIN_VALUES",
    "TAGS_AT",
    "Adapter",
    "Codec",
    "Compression",
    "Dictionaries",
    "Dictionary",
    "Form",
    "Header",
    "JsonCodec",
    "MsgpackCodec",
    "PickleCodec",
    "Pipeline",
    "PlainCodec",
    "Skimmed",
    "Skimmer",
    "codec_named",
    "codec_numbered",
    "compression_named",
    "make_pipeline",
    "packed_time",
    "read_ids",
    "read_tags",
    "read_times",
    "register",
    "written_as",
]
