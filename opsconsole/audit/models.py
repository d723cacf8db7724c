"""Refusals of strangers, until their minute is over."""

from __future__ import annotations

from django.db import connection, models

from opsconsole.audit.choices import Stranger

COUNT_ONE = """
INSERT INTO {table} AS counted (address, kind, minute, count)
VALUES (%s, %s, date_trunc('minute', now(), 'UTC'), 1)
ON CONFLICT (address, kind, minute) DO UPDATE SET count = counted.count + 1
"""


class StrangerQuerySet(models.QuerySet["StrangerCount"]):
    def add(self, address: str, kind: Stranger) -> None:
        """Count one refusal now; any number at once may do so."""
        table = connection.ops.quote_name(self.model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(COUNT_ONE.format(table=table), [address, kind])


class StrangerCount(models.Model):
    """How often an address was refused for one kind in one minute, "" being an unknown address.

    Anybody can send any number of requests: each in the audit trail would let strangers fill it.
    """

    address = models.CharField(max_length=45, blank=True)
    kind = models.CharField(max_length=16, choices=Stranger.choices)
    minute = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)

    objects = StrangerQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["address", "kind", "minute"], name="stranger_once_a_minute"
            )
        ]

    def __str__(self) -> str:
        return f"{self.count} x {self.kind} from {self.address}"
