"""What is sent to workers is what workers know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from opsconsole.project.checks import check_task_keys
from opsconsole.work import sending

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = "opsconsole.project.settings"
# As a worker starts: in a process where nothing but the Celery application was imported.
WORKER = """
from opsconsole.project.celery import app
app.loader.import_default_modules()
print(*sorted(name for name in app.tasks if not name.startswith("celery.")))
"""

# To a broker that is away, as a page does when somebody asks for something.
SEND = """
import time
import django
django.setup()
from opsconsole.work.sending import send_short
began = time.monotonic()
print(send_short("any", 1), time.monotonic() - began)
"""


def test_worker_knows_every_task_that_is_sent():
    done = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(sending.TASK_KEYS)


def test_broker_that_is_away_is_tried_once(tmp_path):
    away = {"REDIS_URL": f"redis+socket://{tmp_path}/nobody", "DJANGO_SETTINGS_MODULE": SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", SEND],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | away,
    )
    was_sent, seconds = done.stdout.split()
    assert was_sent == "False"
    # A second try comes after a pause of 2 s.
    assert float(seconds) < 2


def test_check_finds_a_key_that_is_no_task():
    assert check_task_keys() == []
    sending.TASK_KEYS.add(sending.TaskKey("nobody.does_this"))
    try:
        assert [(found.id, found.level) for found in check_task_keys()] == [("opsconsole.E002", 40)]
    finally:
        sending.TASK_KEYS.discard(sending.TaskKey("nobody.does_this"))
