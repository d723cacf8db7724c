"""Places that hold archives."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.models import Application


class StorageQuerySet(models.QuerySet["Storage"]):
    def shown(self) -> StorageQuerySet:
        return self.filter(archived_at=None)

    def offered_to(self, application: Application) -> StorageQuerySet:
        """Those in which the application's environments may keep backups, or find archives."""
        theirs = Storage.applications.through.objects.filter(application=application)
        return self.shown().filter(
            models.Q(is_shared=True) | models.Q(pk__in=theirs.values("storage"))
        )

    def builtin(self) -> Storage:
        """The backups folder of the console itself; made when it is first asked for."""
        made_of = {"name": "Backups folder", "is_shared": True}
        return self.get_or_create(url="", defaults=made_of)[0]


class Storage(models.Model):
    """A folder or a bucket, by its URL. Its secret is kept encrypted and opened on workers only.

    The one with an empty URL is the console's own backups folder (OPSCONSOLE_BACKUPS), which
    moves with the console.
    """

    name = models.CharField(_("name"), max_length=80, unique=True)
    url = models.CharField(
        "URL",
        max_length=500,
        unique=True,
        help_text=_(
            "file:///folder, s3://bucket/prefix?endpoint=https://host&region=name or "
            "azure://container/prefix"
        ),
    )
    access_key = models.CharField(
        _("access key"), max_length=200, blank=True, help_text=_("For Azure: the account's name.")
    )
    secret_encrypted = models.TextField(blank=True)
    is_shared = models.BooleanField(_("offered to every application"), default=False)
    applications = models.ManyToManyField(
        Application, blank=True, related_name="+", verbose_name=_("offered to")
    )
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True)
    tested_at = models.DateTimeField(null=True)
    # "" when the last test wrote, read back and deleted.
    test_error = models.CharField(max_length=500, blank=True)

    objects = StorageQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def address(self) -> str:
        return self.url or f"file://{settings.BACKUPS_FOLDER}"
