from django.db import migrations, models


class Migration(migrations.Migration):
    """Storages of before stay offered to every application."""

    dependencies = [
        ("opsconsole", "0015_summary_parts"),
        ("backups_app", "0010_targets_of_checks_and_schedules"),
    ]

    operations = [
        migrations.AddField(
            model_name="storage",
            name="applications",
            field=models.ManyToManyField(
                blank=True,
                related_name="+",
                to="opsconsole.application",
                verbose_name="offered to",
            ),
        ),
        migrations.AddField(
            model_name="storage",
            name="is_shared",
            field=models.BooleanField(default=True, verbose_name="offered to every application"),
        ),
        migrations.AlterField(
            model_name="storage",
            name="is_shared",
            field=models.BooleanField(default=False, verbose_name="offered to every application"),
        ),
    ]
