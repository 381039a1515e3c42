"""The program that a worker is.

Its argument are its options. Each line on its standard input is a command, which it answers with a line of JSON.
"""

from __future__ import annotations

import json
import sys

from .worker import Options
from .working import LoopWorker, ThreadWorker


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    worker = (LoopWorker if options.loop else ThreadWorker)(options)
    worker.start()
    print(json.dumps("ready"), flush=True)  # noqa: T201 - the answer to whoever started it
    for line in sys.stdin:
        words = line.split()
        if words == ["close"]:
            break
        print(json.dumps(worker.obey(words)), flush=True)  # noqa: T201
    worker.close()
