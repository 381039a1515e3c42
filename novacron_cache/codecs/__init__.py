"""Values to bytes and back: the codecs, and the envelope that says what the bytes are.

Importing the package registers the codecs that come with it.
"""

from __future__ import annotations

from .base import Adapter, Codec, codec_named, codec_numbered, register
from .compression import Compression, compression_named
from .dictionaries import MAX_BYTES as MAX_DICTIONARY_BYTES
from .dictionaries import Dictionaries, Dictionary
from .envelope import Header, Pipeline, make_pipeline, written_as
from .packing import MSGPACK, PLAIN_VALUES, MsgpackCodec, PlainCodec
from .pickled import PICKLE, PickleCodec
from .skimming import IDS_BEFORE, TEXT_AT, Skimmed, read_ids, read_tags, read_times
from .text import JSON, JsonCodec

__all__ = [
    "IDS_BEFORE",
    "JSON",
    "MAX_DICTIONARY_BYTES",
    "MSGPACK",
    "PICKLE",
    "PLAIN_VALUES",
    "TEXT_AT",
    "Adapter",
    "Codec",
    "Compression",
    "Dictionaries",
    "Dictionary",
    "Header",
    "JsonCodec",
    "MsgpackCodec",
    "PickleCodec",
    "Pipeline",
    "PlainCodec",
    "Skimmed",
    "codec_named",
    "codec_numbered",
    "compression_named",
    "make_pipeline",
    "read_ids",
    "read_tags",
    "read_times",
    "register",
    "written_as",
]
