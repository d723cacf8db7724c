"""Runs know their operation. Until now one was told by its kind and the keys of its parameters."""

from django.db import migrations, models

FILL = """
UPDATE opsconsole_run SET
  operation = CASE
    WHEN kind = 'migrate' AND parameters ? 'end_session' THEN 'end_session'
    WHEN kind = 'migrate' AND parameters ? 'adopt' THEN 'adopt_drift'
    WHEN kind = 'migrate' AND parameters ? 'resolve' AND parameters ->> 'mark' = 'finish' THEN 'finish'
    WHEN kind = 'migrate' AND parameters ? 'resolve' THEN 'resolve'
    WHEN kind = 'restore' AND parameters ? 'undo' THEN 'undo'
    WHEN kind = 'restore' AND parameters ? 'database' THEN 'restore_as'
    WHEN kind = 'verify' THEN 'prove'
    ELSE kind
  END,
  changes_target = kind IN ('migrate', 'restore'),
  excludes = kind
"""

# The parameters themselves stay as they are: version 0 is read as it was written. Going back,
# those written since are put into its shape, so that the older version can execute what is queued.
UNFILL = """
UPDATE opsconsole_run SET parameters = CASE operation
    WHEN 'end_session' THEN jsonb_build_object('end_session', parameters)
    WHEN 'adopt_drift' THEN jsonb_build_object(
      'adopt', parameters -> 'migration', 'checksum', parameters -> 'checksum',
      'schema', parameters -> 'shown_schema')
    WHEN 'finish' THEN jsonb_build_object(
      'resolve', parameters -> 'migration', 'mark', 'finish',
      'checksum', parameters -> 'checksum', 'landed', parameters -> 'landed')
    WHEN 'resolve' THEN jsonb_build_object(
      'resolve', parameters -> 'migration', 'mark', parameters -> 'mark')
    WHEN 'undo' THEN jsonb_build_object('undo', parameters -> 'replaced')
    ELSE parameters
  END
WHERE parameters_version >= 1
"""


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0008_work_list"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="operation",
            field=models.CharField(default="", max_length=32),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="run",
            name="changes_target",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="run",
            name="excludes",
            field=models.CharField(blank=True, max_length=32),
        ),
        migrations.AddField(
            model_name="run",
            name="parameters_version",
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.RunSQL(FILL, UNFILL),
        migrations.RemoveConstraint(model_name="run", name="run_one_changes_a_target"),
        migrations.RemoveConstraint(model_name="run", name="run_one_active_of_a_kind"),
        migrations.AddConstraint(
            model_name="run",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("changes_target", True),
                    ("status__in", ["queued", "running", "cancelling", "lost", "needs_attention"]),
                    ("way_back", None),
                ),
                fields=("target",),
                name="run_one_changes_a_target",
            ),
        ),
        migrations.AddConstraint(
            model_name="run",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("status__in", ["queued", "running", "cancelling", "lost"]),
                    models.Q(("excludes", ""), _negated=True),
                ),
                fields=("target", "excludes"),
                name="run_one_active_excludes",
            ),
        ),
    ]
