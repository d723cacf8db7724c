import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Coalesce

# Both are one statement: the server does the work, and spills to disk what memory does not hold.
SET_TARGETS = """
    UPDATE opsconsole_healthresult result SET target_id = target.id
    FROM opsconsole_healthcheck asked
    JOIN opsconsole_target target ON target.environment_id = asked.environment_id
    WHERE asked.kind = 'sql' AND asked.environment_id = result.environment_id
        AND asked.name = result.check_name
"""
ROLL_UP = """
    INSERT INTO opsconsole_healthrollup (
        environment_id, target_id, check_name, starts_at,
        samples, unhealthy, latency_sum_ms, latency_min_ms, latency_max_ms
    )
    SELECT
        environment_id, target_id, check_name,
        date_bin('30 minutes', observed_at, 'epoch'::timestamptz),
        count(*), count(*) FILTER (WHERE NOT is_healthy),
        coalesce(sum(latency_ms) FILTER (WHERE is_healthy), 0),
        min(latency_ms) FILTER (WHERE is_healthy), max(latency_ms) FILTER (WHERE is_healthy)
    FROM opsconsole_healthresult WHERE run_id IS NULL
    GROUP BY 1, 2, 3, 4
"""


def target_or_none() -> Coalesce:
    return Coalesce("target", 0, output_field=models.BigIntegerField())


def target(related_name: str) -> models.ForeignKey:
    return models.ForeignKey(
        "opsconsole.target",
        blank=True,
        db_index=False,
        null=True,
        on_delete=django.db.models.deletion.CASCADE,
        related_name=related_name,
    )


class Migration(migrations.Migration):
    dependencies = [("opsconsole", "0009_operations")]

    operations = [
        migrations.AddField("healthresult", "target", target("health_results")),
        migrations.RunSQL(SET_TARGETS, migrations.RunSQL.noop),
        migrations.AddIndex(
            "healthresult",
            models.Index(
                models.F("environment"),
                target_or_none(),
                models.F("check_name"),
                models.OrderBy(models.F("observed_at"), descending=True),
                condition=models.Q(run=None),
                name="health_sample_of_check",
            ),
        ),
        migrations.CreateModel(
            name="HealthRollup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "environment",
                    models.ForeignKey(
                        "opsconsole.environment",
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="health_rollups",
                    ),
                ),
                ("target", target("health_rollups")),
                ("check_name", models.CharField(max_length=80)),
                ("starts_at", models.DateTimeField()),
                ("samples", models.PositiveIntegerField()),
                ("unhealthy", models.PositiveIntegerField()),
                ("latency_sum_ms", models.FloatField()),
                ("latency_min_ms", models.FloatField(null=True)),
                ("latency_max_ms", models.FloatField(null=True)),
            ],
            options={"ordering": ["-starts_at"]},
        ),
        migrations.RunSQL(ROLL_UP, migrations.RunSQL.noop),
        migrations.AddIndex(
            "healthrollup",
            models.Index(fields=["environment", "-starts_at"], name="health_rollup_of_day"),
        ),
        migrations.AddConstraint(
            "healthrollup",
            models.UniqueConstraint(
                models.F("environment"),
                target_or_none(),
                models.F("check_name"),
                models.F("starts_at"),
                name="health_rollup_once",
            ),
        ),
    ]
