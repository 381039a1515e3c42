"""The page: laid out once for each viewer, then told what has changed, once a second.

Sections are landmarks with headings. A chart is a picture with a sentence about it, and a table of the same figures
behind a disclosure. What is told by colour is told by a word as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nicegui import ui

from ..observe.logs import Redactor
from . import charts, parts, tables
from .board import Board
from .words import count, escaped, percent

__all__ = ["Page", "head"]

_HERE: Final = Path(__file__).parent

_SAMPLED: Final = (
    "Of answers from process memory one in 16 is timed, and none of those that a cached function gives at once."
)

TILES: Final = (
    ("hit rate", "Hit rate"),
    ("calls", "Calls"),
    ("memory", "From process memory"),
    ("shared", "Shared tiers"),
    ("loader", "Loader, p95"),
    ("misses", "Misses"),
)


def head() -> str:
    """Return what goes into the page's head: its style, and what the browser does by itself."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return f'<style>{style}</style><script type="module">{script}</script>'


class _Text:
    """A place for HTML that is sent only when it has changed."""

    def __init__(self, tag: str = "div", classes: str = "") -> None:
        self._element = ui.html("", sanitize=False, tag=tag).classes(classes)
        self._said = ""

    def say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._element.set_content(text)

    def props(self, text: str) -> _Text:
        self._element.props(text)
        return self


class _Chart:
    """A chart, the sentence about it, its table, and what stands there while there is nothing to draw."""

    def __init__(self, label: str, nothing: str, hint: str, *, low: bool = False) -> None:
        with ui.element("div").classes("holder"):
            self._chart = ui.echart({"series": []}).classes("chart low" if low else "chart")
            self._chart.props(f'role=img aria-label="{escaped(label)}"')
            self._none = ui.html(f"<b>{escaped(nothing)}</b>{escaped(hint)}", sanitize=False).classes("none shown")
        with ui.element("details"):
            with ui.element("summary"):
                ui.html("Show as a table", sanitize=False, tag="span")
            self._table = _Text(classes="scroll").props('tabindex=0 role=group aria-label="Table"')
        self._label = label
        self._empty = True

    def draw(self, options: dict[str, Any] | None, said: str, table: str) -> None:
        if (options is None) != self._empty:
            self._empty = options is None
            self._none.classes(add="shown" if self._empty else "", remove="" if self._empty else "shown")
        if options is None:
            return
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart._props["aria-label"] = f"{self._label}. {said}"
        self._chart.update()
        self._table.say(table)


@contextmanager
def _panel(title: str, note: str = "", width: str = "") -> Iterator[_Text]:
    """Yield the place of a panel's legend; what is made within goes into the panel."""
    name = "".join(one for one in title.lower() if one.isalpha())
    with ui.element("section").classes(f"panel {width}").props(f"aria-labelledby={name}"):
        with ui.element("header"):
            ui.html(escaped(title), sanitize=False, tag="h2").props(f"id={name}")
            if note:
                ui.html(escaped(note), sanitize=False, tag="p")
            legend = _Text("ul", "legend")
        yield legend


class Page:
    """What one viewer sees.

    Args:
        board: what is shown.
        show_keys: whether keys are shown as they are.
    """

    def __init__(self, board: Board, *, show_keys: bool, redactor: Redactor) -> None:
        self._board = board
        self._shown: Callable[[str], str] = redactor.shown
        self._beat = -1
        self._heat = 0.0
        self._show_keys = show_keys
        with ui.element("div").classes("page"):
            ui.html("Skip to the figures", sanitize=False, tag="a").classes("skip").props("href=#figures")
            self._header()
            self._banners()
            with ui.element("div").classes("grid empty").props("id=figures tabindex=-1") as self._grid:
                self._welcome = _Text(classes="panel welcome")
                self._figures()
            self._foot = _Text("p", "foot")

    # -- laying out --------------------------------------------------------------------------------------------------

    def _header(self) -> None:
        with ui.element("header").classes("bar"):
            icon = (
                (_HERE / "icon.svg")
                .read_text(encoding="utf-8")
                .replace("<svg ", '<svg class="mark" aria-hidden="true" ')
            )
            ui.html(icon, sanitize=False).classes("nc-html")
            self._name = _Text("h1")
            self._status = _Text("span", "nc-html").props("role=status")
            with ui.element("div").classes("end"):
                self._who = _Text("span")
                ui.html("Theme: auto", sanitize=False, tag="button").props("id=theme type=button")
            self._beating = _Text("span", "only-read").props("id=beat aria-hidden=true")

    def _banners(self) -> None:
        ui.html('<b>Not connected.</b><span id="lost-age"></span>', sanitize=False).classes("banner bad").props(
            "id=lost role=alert"
        )
        self._problem = ui.element("div").classes("banner bad").props("role=alert id=problem")
        with self._problem:
            self._problems = _Text("span")

    def _figures(self) -> None:
        self._tiles: dict[str, tuple[_Text, _Text]] = {}
        with ui.element("dl").classes("tiles"):
            for name, title in TILES:
                with ui.element("div").classes("tile first" if name == "hit rate" else "tile"):
                    ui.html(escaped(title), sanitize=False, tag="dt")
                    with ui.element("dd"):
                        self._tiles[name] = (_Text("span"), _Text("small"))
                    if name == "calls":
                        self._spark = ui.echart({"series": []}).classes("spark").props("aria-hidden=true")
        with _panel("Hit rate by tier", "share of all calls, the last three minutes", "w8") as self._rates_legend:
            self._rates = _Chart(
                "Hit rate by tier over the last three minutes", "No calls yet", "The first one will show here."
            )
        with (
            _panel("Tiers and servers", "", "w4 stays"),
            ui.element("div").classes("scroll tall").props("tabindex=0 role=group aria-label=States"),
        ):
            self._states = _Text()
        with _panel("How long answers took", "the last minute · median · p99", "w6") as self._times_legend:
            self._times = _Chart(
                "Histograms of answer times by tier",
                "No answers timed yet",
                "One in 16 answers of memory is timed.",
                low=True,
            )
        with _panel("Answer times over time", "five minutes; the stronger, the more", "w6"):
            self._heatmap = _Chart(
                "Heatmap of answer times over five minutes",
                "No answers timed yet",
                "A column is five seconds.",
                low=True,
            )
        with _panel("What if memory were larger", "", "w5"):
            self._curve = _Chart(
                "Estimated hit rate of process memory at other sizes",
                "Measuring",
                "The first estimate takes a thousand calls.",
                low=True,
            )
            self._curve_words = _Text("p", "say")
        with ui.element("div").classes("w7 stack"):
            with _panel("Models", "the last minute", "grows"), _scroll("Models"):
                self._models = _Text()
            with _panel("Processes"), _scroll("Processes"):
                self._processes = _Text()
        with _panel("Hottest keys", "" if self._show_keys else "redacted", "w5"), _scroll("Hottest keys"):
            self._hottest = _Text()
        with _panel("As it happens", "", "w4") as self._feed_legend, _scroll("What happened lately"):
            self._feed = _Text().props("role=log aria-live=off")
        with _panel("Alerts", "", "w3 stays"), _scroll("Alerts"):
            self._alerts = _Text()

    # -- telling -----------------------------------------------------------------------------------------------------

    def update(self) -> None:
        """Tell the viewer what is to be seen now, if that is news."""
        now = self._board.now
        if now.beat == self._beat or (now.look is None and now.problem is None):
            return
        self._beat = now.beat
        look = now.look
        tone, word = parts.status(now)
        self._beating.say(str(now.beat))
        self._status.say(f'<span class="pill {tone}">{word}</span>')
        namespace = "" if look is None else look.namespace
        self._name.say(f'novacron_cache <span class="space">/ {escaped(namespace or "this process")}</span>')
        wrong = parts.problems(now)
        self._problem.classes(add="shown" if wrong else "", remove="" if wrong else "shown")
        self._problem.classes(replace=f"banner {tone if tone != 'good' else 'warn'}{' shown' if wrong else ''}")
        self._problems.say(f"<b>{word}.</b> {escaped('. '.join(one[:1].upper() + one[1:] for one in wrong))}.")
        if look is None:
            self._welcome_to(False, "Nothing to show yet", "The first look has failed; the next one is a second away.")
            return
        reporting = parts.reports(now)
        self._welcome_to(
            reporting,
            "No process is reporting",
            f"The monitor watches the namespace <code>{escaped(look.namespace)}</code> and has told every process so. "
            "Those of the application appear within seconds once they use the same server and the same "
            "<code>NOVACRON_CACHE_NAMESPACE</code>, and their link is up.",
        )
        self._states.say(parts.states(now))
        self._alerts.say(parts.alerts(look.alerts))
        many = len(look.processes)
        self._who.say(f"{many} process{'' if many == 1 else 'es'} reporting" if look.fleet else "this process")
        hidden = "Values are never shown." if self._show_keys else "Values are never shown, keys are redacted."
        self._foot.say(f"<span>Read-only. {hidden}</span><span>{_SAMPLED}</span>")
        if reporting:
            self._draw()

    def _welcome_to(self, reporting: bool, title: str, text: str) -> None:
        self._grid.classes(add="" if reporting else "empty", remove="empty" if reporting else "")
        self._welcome._element.classes(add="" if reporting else "shown", remove="shown" if reporting else "")
        self._welcome.say(f"<h2>{escaped(title)}</h2><p>{text}</p>")

    def _draw(self) -> None:
        now = self._board.now
        for name, (figure, note) in parts.tiles(now).items():
            self._tiles[name][0].say(escaped(figure))
            self._tiles[name][1].say(escaped(note))
        self._spark.options.clear()
        self._spark.options.update(charts.sparkline(now.series))
        self._spark.update()
        called = any(one.calls for one in now.series)
        self._rates_legend.say(parts.legend(now))
        self._rates.draw(
            charts.hit_rates(now.series) if called else None,
            f"{percent(now.rates.hit_rate)} at present",
            parts.rates_table(now),
        )
        timed = any(one.count for one in now.times.values())
        self._times_legend.say(parts.times_legend(now))
        self._times.draw(charts.latencies(now.times) if timed else None, "", parts.times_table(now))
        newest = now.heat[-1][0] if now.heat else 0.0
        if newest != self._heat:
            self._heat = newest
            self._heatmap.draw(charts.heatmap(now.heat) if now.heat else None, "", parts.heat_table(now))
        known = now.curve if now.curve is not None and now.curve.calls >= 1000 else None
        self._curve.draw(
            None if known is None else charts.curve(known), charts.described(known), parts.curve_table(now)
        )
        self._curve_words.say(escaped(parts.curve_words(now)) if known is not None else "")
        self._models.say(tables.models(now))
        self._hottest.say(tables.hottest(now, self._shown))
        self._feed_legend.say(f"<li>{count(now.per_minute.get('invalidations', 0.0))} invalidations a minute</li>")
        self._feed.say(parts.feed(now.happenings, self._shown))
        self._processes.say(tables.processes(now))


@contextmanager
def _scroll(name: str) -> Iterator[None]:
    with ui.element("div").classes("scroll tall").props(f'tabindex=0 role=group aria-label="{escaped(name)}"'):
        yield
