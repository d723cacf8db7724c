"""Looks before a restore, and schedules, belong to a target: so far the one of the environment."""

import django.db.models.deletion
from django.db import migrations, models

# Checked at once: a table with checks that are still due cannot be altered.
FILL = """
    UPDATE {table} SET target_id = (
        SELECT id FROM opsconsole_target WHERE environment_id = {table}.environment_id
    );
    SET CONSTRAINTS ALL IMMEDIATE;
"""
EMPTY_AGAIN = """
    UPDATE {table} SET environment_id = (
        SELECT environment_id FROM opsconsole_target WHERE id = {table}.target_id
    );
    SET CONSTRAINTS ALL IMMEDIATE;
"""


def moved(model, on_delete, related_name):
    """The operations that put `target` in the place of `environment`."""

    def link(to, **more):
        return models.ForeignKey(
            on_delete=on_delete, related_name=related_name, to=f"opsconsole.{to}", **more
        )

    table = f"backups_app_{model}"
    return [
        migrations.AddField(model, "target", link("target", null=True)),
        migrations.AlterField(model, "environment", link("environment", null=True)),
        migrations.RunSQL(FILL.format(table=table), EMPTY_AGAIN.format(table=table)),
        migrations.RemoveField(model, "environment"),
        migrations.AlterField(model, "target", link("target")),
    ]


class Migration(migrations.Migration):
    dependencies = [
        ("backups_app", "0009_plain_labels"),
        ("opsconsole", "0013_plain_labels"),
    ]

    operations = [
        *moved("restorecheck", django.db.models.deletion.CASCADE, "+"),
        migrations.RemoveConstraint("scheduledoccurrence", "occurrence_once"),
        *moved("scheduledoccurrence", django.db.models.deletion.PROTECT, "occurrences"),
        migrations.AddConstraint(
            "scheduledoccurrence",
            models.UniqueConstraint(fields=["target", "kind", "due_at"], name="occurrence_once"),
        ),
    ]
