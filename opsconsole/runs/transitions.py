"""Which status of a run may follow which. Pure."""

from __future__ import annotations

from opsconsole.runs.choices import RunStatus as S

ENDED = frozenset({S.SUCCEEDED, S.FAILED, S.ROLLED_BACK, S.NEEDS_ATTENTION})
ALLOWED: dict[S, frozenset[S]] = {
    S.AWAITING_APPROVAL: frozenset({S.QUEUED, S.REJECTED, S.EXPIRED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED, S.FAILED}),
    S.RUNNING: ENDED | {S.CANCELLING, S.LOST},
    # A cancel that comes too late does not make a finished run a cancelled one.
    S.CANCELLING: ENDED | {S.CANCELLED, S.LOST},
    S.LOST: ENDED,
    S.NEEDS_ATTENTION: frozenset({S.SUCCEEDED, S.FAILED, S.ROLLED_BACK}),
}


def is_allowed(before: S, after: S) -> bool:
    """Whether a run may go from `before` to `after`; terminal statuses lead nowhere."""
    return after in ALLOWED.get(before, frozenset())
