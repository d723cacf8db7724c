"""Where a migration stands in an environment: what engines find, and everything else shows."""

from __future__ import annotations

from opsconsole.statuses import Status, gettext_noop


class MigrationStatus(Status):
    """In the order in which a person should look at them. The values are stored: they stay."""

    FAILED = "failed", gettext_noop("failed"), "bad", "circle-x"
    # Unfinished while the tool's lock is held.
    RUNNING = "running", gettext_noop("running"), "info", "loader"
    # Applied from another text.
    EDITED = "edited", gettext_noop("edited"), "bad", "triangle-alert"
    # Applied, without a file.
    MISSING_LOCALLY = "missing_locally", gettext_noop("missing locally"), "warn", "circle-help"
    # Pending before one that is applied.
    OUT_OF_ORDER = "out_of_order", gettext_noop("out of order"), "warn", "triangle-alert"
    PENDING = "pending", gettext_noop("pending"), "info", "clock"
    # Only shown, by the board, which tells apart who wrote the row of one that is applied.
    BY_HAND = "by_hand", gettext_noop("marked by hand"), "idle", "user"
    BASELINE = "baseline", gettext_noop("baseline"), "idle", "user"
    APPLIED = "applied", gettext_noop("applied"), "good", "circle-check"
    # Only shown: the environment was never seen with it.
    UNKNOWN = "unknown", gettext_noop("not in this folder"), "idle", "circle-help"

    @property
    def is_pending(self) -> bool:
        """The next run would apply it."""
        return self in {MigrationStatus.PENDING, MigrationStatus.OUT_OF_ORDER}

    @property
    def is_out_of_order(self) -> bool:
        return self is MigrationStatus.OUT_OF_ORDER

    @property
    def is_unfinished(self) -> bool:
        """Begun, and not ended."""
        return self in {MigrationStatus.FAILED, MigrationStatus.RUNNING}

    @property
    def is_finished(self) -> bool:
        """The history says that it was applied, whatever the folder says now."""
        return self in {
            MigrationStatus.APPLIED,
            MigrationStatus.EDITED,
            MigrationStatus.MISSING_LOCALLY,
        }

    @property
    def is_troubled(self) -> bool:
        """Somebody has to look at it."""
        return self.is_unfinished or (self.is_finished and self is not MigrationStatus.APPLIED)
