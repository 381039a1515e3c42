"""Passwords, tokens and signing keys appear in no error, no cause of one, no log, no figure and no output."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from servers import ServerProcess, free_port

from novacron_cache import Cache, CacheError, CacheSettings
from novacron_cache.cli import main
from novacron_cache.events import TierFailed
from novacron_cache.observe import WebhookSink, log_events
from novacron_cache.observe.alerting import Alert

SECRET = "hunter2-and-some-more"
KEY = b"signing-" + SECRET.encode()

pytestmark = pytest.mark.servers


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, by anybody, tracebacks included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def chain(error: BaseException) -> str:
    """Return all that a report of an error may print: texts, causes, contexts, attributes and arguments."""
    seen: list[str] = ["".join(traceback.format_exception(error))]
    one: BaseException | None = error
    while one is not None:
        seen += [str(one), repr(one), repr(one.args), repr(vars(one))]
        one = one.__cause__ or one.__context__
    return "\n".join(seen)


WRONG_SETTINGS: list[dict[str, Any]] = [
    {"url": f"redis://user:{SECRET}@host:port"},
    {"url": f"redis://user:{SECRET}@[host"},
    {"url": f"http://user:{SECRET}@host"},
    {"url": f"redis://user:{SECRET}@host/first/second"},
    {"url": f"redis://user:{SECRET}@"},
    {"url": f"redis://:{SECRET}#@host:6379"},
    {"url": f"redis://host?password={SECRET}&timeout=1"},
    {"url": "redis://host", "password": SECRET, "pasword": SECRET},
    {"url": f"redis://user:{SECRET}@host", "password": SECRET},
    {"mode": "sentinel", "url": f"redis://user:{SECRET}@host"},
]


@pytest.mark.parametrize("redis", WRONG_SETTINGS, ids=lambda one: "-".join(one))
def test_no_error_about_settings_holds_a_secret(redis: dict[str, Any]) -> None:
    with pytest.raises(CacheError) as caught:
        Cache(CacheSettings(namespace="shop", redis=redis)).close()
    assert SECRET not in chain(caught.value)
    environ = {f"NOVACRON_CACHE_REDIS__{name.upper()}": str(value) for name, value in redis.items()}
    with pytest.raises(CacheError) as caught:
        Cache(CacheSettings.from_env({"NOVACRON_CACHE_NAMESPACE": "shop", **environ})).close()
    assert SECRET not in chain(caught.value)


def settings(url: str) -> CacheSettings:
    return CacheSettings(
        namespace="shop",
        redis={"url": url, "connect_timeout": "5s", "socket_timeout": "5s"},
        signing_keys=[KEY],
        monitor={"token": SECRET, "webhook_url": f"https://host/{SECRET}", "webhook_secret": SECRET},
    )


def test_no_form_of_settings_shows_a_secret() -> None:
    shown = settings(f"redis://user:{SECRET}@host")
    texts = [repr(shown), str(shown), shown.model_dump_json(), json.dumps(shown.model_dump(mode="json"), default=str)]
    assert [text for text in texts if SECRET in text] == []


@pytest.fixture(params=["a wrong password", "nobody there", "no such user"])
def url(request: pytest.FixtureRequest, valkey_server: ServerProcess) -> Iterator[str]:
    """A server that refuses, or none, with a secret in its address."""
    address = valkey_server.url.removeprefix("redis://")
    if request.param == "nobody there":
        address = f"127.0.0.1:{free_port()}"
    name = "nobody" if "user" in request.param else "shop"
    valkey_server.command("ACL", "SETUSER", "shop", "on", ">another", "~*", "+@all")
    yield f"redis://{name}:{SECRET}@{address}"
    valkey_server.command("ACL", "DELUSER", "shop")


def test_no_failure_of_a_server_shows_a_secret(url: str, log: io.StringIO) -> None:
    with Cache(settings(url)) as cache:
        log_events(cache, show_keys=True)
        failed: list[TierFailed] = []
        cache.on(TierFailed, failed.append)
        assert cache.get_or_load("k", lambda: 1) == 1
        cache.invalidate("k")
        with pytest.raises(CacheError) as caught:
            cache.invalidate("k", wait=True)
        health = cache.health()
        shown = [chain(caught.value), repr(cache), repr(health), json.dumps(health.as_dict()), cache.metrics_json()]
        shown += [cache.export_prometheus(), repr(cache.engine.authority), repr(vars(cache.engine.authority))]
        shown += [chain(one.error) for one in failed]
    assert failed
    assert [text for text in [*shown, log.getvalue()] if SECRET in text] == []


COMMANDS = [
    ["doctor"],
    ["stats", "--no-processes"],
    ["scan"],
    ["get", "k"],
    ["explain", "k"],
    ["invalidate", "--key", "k"],
    ["monitor", "--once"],
    ["top", "--rounds", "1", "--interval", "0.5"],
]


@pytest.mark.parametrize("given", ["option", "environment"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_shows_a_secret(
    command: list[str], given: str, valkey_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = valkey_server.url.removeprefix("redis://")
    monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "shop")
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", KEY.decode())
    for url in (f"redis://:{SECRET}@{address}", f"redis://:{SECRET}@127.0.0.1:{free_port()}"):
        where = ["--url", url] if given == "option" and command[0] != "monitor" else []
        if not where:
            monkeypatch.setenv("NOVACRON_CACHE_REDIS__URL", url)
        result = CliRunner().invoke(main, [*command, *where])
        assert SECRET not in result.output, command
        assert SECRET not in (chain(result.exception) if result.exception else "")
        assert result.exit_code in (0, 1, 2)


ALERT = Alert("Test", "firing", "critical", 1.0, 0.0, "events", 0.0, "it is a test", "nothing")


@pytest.mark.parametrize("path", [f"/{SECRET}", f"/with space/{SECRET}", f"/\n{SECRET}", f"/é{SECRET}"])
def test_no_webhook_that_fails_shows_its_token(path: str, log: io.StringIO) -> None:
    sink = WebhookSink(f"http://127.0.0.1:{free_port()}{path}", secret=SECRET, attempts=1)
    sink.send(ALERT)
    sink.close()
    assert sink.dropped == 1
    assert "an alert could not be sent to 127.0.0.1" in log.getvalue()
    assert SECRET not in log.getvalue()
    assert SECRET not in repr(sink)


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@host:none/", f"http://[{SECRET}/", f"ftp://host/{SECRET}"])
def test_a_webhook_that_is_no_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(CacheError) as caught:
        WebhookSink(url)
    assert SECRET not in chain(caught.value)
