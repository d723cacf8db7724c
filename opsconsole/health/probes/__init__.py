"""Health checks. A probe takes a `ProbeRequest` and returns a `ProbeAnswer`; it never raises."""

from collections.abc import Callable

from opsconsole.health.probes.http import probe_http
from opsconsole.health.probes.kinds import SUMMARY_CHARACTERS, ProbeAnswer, ProbeRequest
from opsconsole.health.probes.sql import probe_sql

PROBES: dict[str, Callable[[ProbeRequest], ProbeAnswer]] = {"http": probe_http, "sql": probe_sql}

__all__ = ["PROBES", "SUMMARY_CHARACTERS", "ProbeAnswer", "ProbeRequest"]
