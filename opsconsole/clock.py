"""Moments by the database's clock, the only one that all processes share."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import DateTimeField, ExpressionWrapper, Value
from django.db.models.functions import Now


def in_seconds(seconds: float) -> ExpressionWrapper:
    """The database's clock plus some seconds, as an expression."""
    return ExpressionWrapper(
        Now() + Value(timedelta(seconds=seconds)), output_field=DateTimeField()
    )
