"""`manage.py` from a process that has imported everything: each command is a fork of it.

Reads one JSON line per command, `{"arguments": [...], "stdout": path, "stderr": path}`, and
answers with its exit status; with `"goes_on": true`, at once, with the number of its process.
Starting Python and Django anew takes more than most commands do.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import django
from django.core.management import execute_from_command_line


def run(order: dict[str, Any]) -> int:
    for number, path in ((1, order["stdout"]), (2, order["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    try:
        execute_from_command_line(["manage.py", *order["arguments"]])
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = run(order)
        finally:
            os._exit(status)
    return child


def answer_to(order: dict[str, Any]) -> int:
    child = fork(order)
    return child if order.get("goes_on") else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.project.settings"
    django.setup()
    for name in ("opsconsole.project.management.commands.ops", "opsconsole.project.urls"):
        importlib.import_module(name)
    for line in sys.stdin:
        print(answer_to(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
