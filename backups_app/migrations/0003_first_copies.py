"""Backups taken before there were storages lie in the console's own backups folder."""

from django.db import migrations


def forwards(apps, schema_editor):
    backup_model = apps.get_model("backups_app", "Backup")
    if not backup_model.objects.exists():
        return
    storage, _made = apps.get_model("backups_app", "Storage").objects.get_or_create(
        url="", defaults={"name": "Backups folder"}
    )
    copies = apps.get_model("backups_app", "BackupCopy").objects
    for backup in backup_model.objects.all():
        backup.manifest |= {"format": "custom", "compression": "zstd:1", "recipients": []}
        backup.save(update_fields=["manifest"])
        copies.get_or_create(
            backup=backup,
            storage=storage,
            defaults={
                "state": "deleted" if backup.deleted_at else "stored",
                "stored_at": backup.taken_at,
            },
        )


class Migration(migrations.Migration):
    dependencies = [("backups_app", "0002_storages_and_policies")]
    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
