from django.db import migrations, models

LISTED = models.Q(("deleted_at", None))


class Migration(migrations.Migration):
    """The list of backups goes on from a moment and an id; deleted backups, whose rows stay, are
    not in it. The index of before served that list alone."""

    dependencies = [
        ("backups_app", "0011_storages_offered_to_applications"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="backup",
            name="backups_app_environ_79f882_idx",
        ),
        migrations.AddIndex(
            model_name="backup",
            index=models.Index(condition=LISTED, fields=["-taken_at", "-id"], name="backup_newest"),
        ),
        migrations.AddIndex(
            model_name="backup",
            index=models.Index(
                condition=LISTED,
                fields=["environment", "-taken_at", "-id"],
                name="backup_newest_of_environment",
            ),
        ),
    ]
