"""How long a way back cuts users off, as a client sees it and as the page says.

Run as `.venv/bin/python -m benchmarks.outage [TIMES]`. Ten clients read and write all along; an
independent client samples every 20 ms. Prints both measurements side by side, and their ratio,
from the same runs.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OPSCONSOLE_TEST_CLIENTS", "10")

from tests.chaos.console import STAGING, Console, Sampler


def main(times: int) -> None:
    console = Console(scale=1)
    try:
        console.start()
        print(f"{'client ms':>10} {'page ms':>10} {'apart ms':>10} {'ratio':>6}")
        for _ in range(times):
            console.reset()
            console.ops("demo", "break-health")
            with console.traffic():
                run = console.ops("migrate", STAGING, "--wait")
                with Sampler(console.application_dsn()) as sampler:
                    back = console.ops("way-back", str(run["id"]), "--reason", "x", "--wait")
            client, page = sampler.total * 1000, back["availability"]["down_ms"]
            print(f"{client:10.1f} {page:10.1f} {abs(client - page):10.1f} {client / page:6.2f}")
            console.ops("demo", "mend")
    finally:
        console.remove()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
