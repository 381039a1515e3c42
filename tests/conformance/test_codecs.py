"""Each codec carries what it is given, to the last type, and refuses the rest."""

from __future__ import annotations

import pytest

from novacron_cache.codecs import JSON, MSGPACK, PICKLE, Codec
from novacron_cache.testing import CodecSuite


class TestJson(CodecSuite):
    @pytest.fixture
    def codec(self) -> Codec:
        return JSON


class TestMsgpack(CodecSuite):
    @pytest.fixture
    def codec(self) -> Codec:
        return MSGPACK


class TestPickle(CodecSuite):
    @pytest.fixture
    def codec(self) -> Codec:
        return PICKLE
