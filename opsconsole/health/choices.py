"""What a health check says: value, word, tone and icon."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.choices import Shown


class Health(Shown):
    HEALTHY = "healthy", _("Healthy")
    UNHEALTHY = "unhealthy", _("Unhealthy")
    UNKNOWN = "unknown", _("Not checked yet")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.HEALTHY: ("good", "circle-check"),
            cls.UNHEALTHY: ("bad", "circle-x"),
            cls.UNKNOWN: ("idle", "circle-dashed"),
        }
