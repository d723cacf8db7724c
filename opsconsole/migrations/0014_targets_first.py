"""Find the newest run of a target at once; tests of a connection that wait name their target."""

from django.db import migrations, models

NAME_THE_TARGET = """
    UPDATE opsconsole_workitem SET arguments = jsonb_build_object('target', target.id)
    FROM opsconsole_target target
    WHERE work = 'opsconsole.test_connection'
      AND target.environment_id = (arguments ->> 'environment')::bigint
"""
NAME_THE_ENVIRONMENT = """
    UPDATE opsconsole_workitem
    SET arguments = jsonb_build_object('environment', target.environment_id)
    FROM opsconsole_target target
    WHERE work = 'opsconsole.test_connection' AND target.id = (arguments ->> 'target')::bigint
"""


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0013_plain_labels"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["target", "-id"], name="run_newest_of_target"),
        ),
        # Which kinds there are is for the operations to say: a new one alters no table.
        migrations.AlterField("run", "kind", models.CharField(max_length=16)),
        migrations.RunSQL(NAME_THE_TARGET, NAME_THE_ENVIRONMENT),
    ]
