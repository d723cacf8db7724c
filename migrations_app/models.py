"""The text of every migration script the console has seen, by its hash."""

from __future__ import annotations

from django.db import models


class ScriptText(models.Model):
    """One version of one script. Kept for good: it is the evidence of what was run."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    sql = models.TextField()
    first_seen_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]
