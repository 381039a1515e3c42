"""Settings: no secret is shown, whatever shows them."""

from __future__ import annotations

import json
import pickle
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit.configured import env_problem, problem

from novacron_cache.settings import CacheSettings, RedisSettings, redact

SECRET = "hunter2-hunter2-hunter2"


def everything_of(error: BaseException) -> str:
    """Return all that a log, a debugger or an error report would show of an error."""
    shown = [repr(error), str(error), "".join(traceback.format_exception(error))]
    for related in (error.__cause__, error.__context__):
        if isinstance(related, ValidationError):
            shown += [str(related), related.json(), json.dumps(related.errors(), default=repr)]
        elif related is not None:
            shown.append(everything_of(related))
    return "\n".join(shown)


class TestSecrets:
    def test_no_secret_is_shown_by_settings(self) -> None:
        settings = CacheSettings(
            namespace="shop", signing_keys=[SECRET], redis={"url": f"redis://user:{SECRET}@cache:6379/0"}
        )
        other = CacheSettings(namespace="shop", redis={"url": "redis://cache", "password": SECRET})
        for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.redis}", str([settings])):
            assert SECRET not in shown
            assert "redis://***@cache:6379/0" in shown
        for shown in (repr(other), str(other), other.model_dump_json(), repr(other.model_dump())):
            assert SECRET not in shown

    def test_secrets_can_be_read_by_those_who_ask(self) -> None:
        redis = RedisSettings(url="redis://cache", password=SECRET)
        assert redis.password is not None
        assert redis.password.get_secret_value() == SECRET
        assert CacheSettings(signing_keys=SECRET).signing_keys[0].get_secret_value() == SECRET.encode()

    def test_secrets_survive_pickling_to_a_child_process(self) -> None:
        settings = CacheSettings(signing_keys=[SECRET], redis={"password": SECRET})
        assert pickle.loads(pickle.dumps(settings)) == settings

    @pytest.mark.parametrize(
        "values",
        [
            {"redis": {"url": f"redis://user:{SECRET}@cache:port"}, "namespace": "shop"},
            {"redis": {"url": f"redis://:{SECRET}"}, "namespace": "shop"},
            {"redis": {"url": f"http://user:{SECRET}@cache"}, "namespace": "shop"},
            {"redis": {"url": f"redis://user:{SECRET}@[cache"}, "namespace": "shop"},
            {"redis": {"url": f"redis://user:{SECRET}@cache"}},
            {"redis": {"url": f"unix:///a?password={SECRET}", "mode": "cluster"}, "namespace": "shop"},
            {"redis": {"url": f"redis://:{SECRET}@cache", "password": SECRET}, "namespace": "shop"},
            {"redis": f"redis://user:{SECRET}@cache"},
            {"redis": {"password": [SECRET]}},
            {"redis": {"password": {"value": SECRET}}},
            {"redis": {"passwrod": SECRET}},
            {"redis": {"password": SECRET, "ttl": "soon"}},
            {"redis": {"mode": "cluster", "addresses": [f"user:{SECRET}@a:1"]}, "namespace": "shop"},
            {"redis": {"replica_addresses": f"user:{SECRET}@a:1"}},
            {"signing_keys": [SECRET, "short-" + SECRET[:9]]},
            {"signing_keys": [{"key": SECRET}]},
            {"signing_keys": f'["{SECRET}"'},
            {"signing_key": SECRET},
            {"_signing_keys": [SECRET]},
        ],
    )
    def test_no_secret_is_shown_by_an_error(self, values: dict[str, Any]) -> None:
        shown = everything_of(problem(**values))
        assert SECRET not in shown
        assert SECRET[:9] not in shown

    @pytest.mark.parametrize(
        "environ",
        [
            {"NOVACRON_CACHE_REDIS__URL": f"redis://user:{SECRET}@cache:port"},
            {"NOVACRON_CACHE_REDIS__URL": f"redis://user:{SECRET}@cache"},
            {"NOVACRON_CACHE_REDIS": f'{{"password": "{SECRET}", "ttl": "soon"}}'},
            {"NOVACRON_CACHE_REDIS": f'{{"password": "{SECRET}"'},
            {"NOVACRON_CACHE_REDIS__PASSWROD": SECRET},
            {"NOVACRON_CACHE_SIGNING_KEYS": SECRET[:9]},
            {"NOVACRON_CACHE_SIGNING_KEY": SECRET},
            {"REDIS_MASTER_ADDR": f"user:{SECRET}@cache:port", "NOVACRON_CACHE_NAMESPACE": "shop"},
            {"REDIS_SLAVE_ADDRS": f"a:1,user:{SECRET}@b:2"},
        ],
    )
    def test_no_secret_is_shown_by_an_error_about_the_environment(self, environ: dict[str, str]) -> None:
        shown = everything_of(env_problem(environ))
        assert SECRET[:9] not in shown

    @given(st.text(st.characters(codec="utf-8", exclude_characters="@/?#[]\\"), min_size=8))
    def test_any_password_is_taken_out_of_a_url(self, password: str) -> None:
        assert password not in redact(f"redis://user:{password}@cache:6379/0")

    def test_an_address_without_credentials_is_left_as_it_is(self) -> None:
        for text in ("redis://cache:6379/0", "unix:///run/redis.sock?db=1", "cache:6379", "a:1,b:2"):
            assert redact(text) == text
