"""Coverage of the whole suite against the floor in floor.txt, which only rises.

`python -m tests.floor [arguments of pytest]`; exit status 1 when a test fails or coverage is below
the floor. Lines and branches that tests reach in the tests' own processes count; what runs in
workers, tools and servers that the tests start does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

FLOOR = Path(__file__).with_name("floor.txt")
# Which thread comes first, and what a machine lacks, moves the tenths.
CHANCE = 0.5
ARGUMENTS = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]


def measure(arguments: list[str]) -> int:
    """Run the tests; the share of lines and branches they reach, in whole per cent, less CHANCE and
    rounded down.

    Raises CalledProcessError when a test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "--cov",
                f"--cov-report=json:{report}",
                *ARGUMENTS,
                *arguments,
            ],
            check=True,
        )
        reached = json.loads(report.read_text())["totals"]["percent_covered"]
    return int(reached - CHANCE)


def judge(reached: int, floor: Path = FLOOR) -> str:
    """Why the coverage does not do, or ""; the floor is raised to it when it is higher."""
    lowest = int(floor.read_text())
    if reached < lowest:
        return f"{reached} % of lines and branches are covered, and {lowest} % were before"
    floor.write_text(f"{reached}\n")
    return ""


def main() -> None:
    try:
        reached = measure(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    problem = judge(reached)
    print(problem or f"{reached} % of lines and branches are covered")
    sys.exit(1 if problem else 0)


if __name__ == "__main__":
    main()
