from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opsconsole.outgoing import CallPolicy

SUMMARY_CHARACTERS = 500


@dataclass(frozen=True)
class ProbeRequest:
    """What to ask, how long it may take altogether, and where it may lead.

    `conninfo` is for probes that go to the target itself, which must not be `own_database`.
    """

    address: str
    timeout_seconds: float
    conninfo: str = field(default="", repr=False)
    policy: CallPolicy = field(default_factory=CallPolicy)
    own_database: tuple[int, int] | None = None


@dataclass(frozen=True)
class ProbeAnswer:
    """What came back: one line for people, the latency in ms, and the answer as data."""

    is_healthy: bool
    latency_ms: float
    summary: str
    answer: dict[str, Any] = field(default_factory=dict)
