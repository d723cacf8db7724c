from contextlib import suppress

from django.db import Error, migrations, models, transaction

# As `Words` asks for them, in the case that icontains compares in.
INDEXES = """
    CREATE INDEX audit_event_words ON opsconsole_auditevent USING gin (upper((
        actor_label || ' ' || action || ' ' || object_label || ' ' || reason || ' ' || sentence
    )::text) gin_trgm_ops);
    CREATE INDEX audit_event_actor ON opsconsole_auditevent
        USING gin (upper(actor_label::text) gin_trgm_ops)
"""


def index_words(_apps, schema_editor):
    """Where the server has pg_trgm and the role may use it; without, a search reads every row.

    Also where somebody put it into a schema that the role does not search: no search of an audit
    trail is worth a console that does not start.
    """
    connection = schema_editor.connection
    with suppress(Error), transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        cursor.execute(INDEXES)


def forget_words(_apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("DROP INDEX IF EXISTS audit_event_words, audit_event_actor")


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0019_try_before_saving"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="run",
            index=models.Index(
                condition=models.Q(("changes_target", True)),
                fields=["target", "-id"],
                name="run_newest_change",
            ),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["kind", "-id"], name="run_newest_of_kind"),
        ),
        migrations.RunPython(index_words, forget_words),
    ]
