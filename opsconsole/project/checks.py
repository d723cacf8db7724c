"""System checks of the whole: messages that workers do not understand, settings that shut out."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from opsconsole.project.celery import TASK_PACKAGES, app
from opsconsole.work.sending import TASK_KEYS


@register()
def check_task_keys(**_options: Any) -> list[CheckMessage]:
    """Every key that is sent names a task of the modules that workers import."""
    app.loader.autodiscover_tasks(TASK_PACKAGES)
    return [
        Error(
            f"{key} is sent to workers, and they have no task of that name.", id="opsconsole.E002"
        )
        for key in sorted(TASK_KEYS - app.tasks.keys())
    ]


@register()
def check_security_contact(**_options: Any) -> list[CheckMessage]:
    """What security.txt says is an address, and one line."""
    contact = settings.SECURITY_CONTACT
    if not contact or re.fullmatch(r"(mailto:|https://|tel:)[!-~]+", contact):
        return []
    return [
        Error(
            f"OPSCONSOLE_SECURITY_CONTACT is no address: {contact}",
            hint="Give one that begins with mailto:, https:// or tel:.",
            id="opsconsole.E003",
        )
    ]


@register()
def check_proxies(**_options: Any) -> list[CheckMessage]:
    """With HTTPS only, a proxy is named whose word counts that a request came by HTTPS."""
    if not settings.SECURE_SSL_REDIRECT or settings.TRUSTED_PROXIES:
        return []
    return [
        Warning(
            "HTTPS is required, and no proxy is named: every request is redirected for ever.",
            hint="Set OPSCONSOLE_TRUSTED_PROXIES to the address of your proxy.",
            id="opsconsole.W002",
        )
    ]
