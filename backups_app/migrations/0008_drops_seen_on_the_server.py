from django.db import migrations
from django.db.models import F


def look_again(apps, _schema_editor):
    """Have a worker see to the drops that were only asked for: their message may have been lost."""
    WorkItem = apps.get_model("opsconsole", "WorkItem")
    rows = apps.get_model("backups_app", "ReplacedDatabase").objects.exclude(dropped_at=None)
    rows.update(drop_requested_at=F("dropped_at"))
    for row in rows.filter(target__environment__archived_at=None).select_related("target"):
        work = "backups_app.drop_replaced"
        row.drop_work = WorkItem.objects.create(
            work=work,
            key=f"{work}:{row.pk}",
            arguments={"replaced": row.pk},
            about=row.replaced_name,
            environment_id=row.target.environment_id,
        )
        row.dropped_at = None
        row.save(update_fields=["drop_work", "dropped_at"])


def believe_the_request(apps, _schema_editor):
    rows = apps.get_model("backups_app", "ReplacedDatabase").objects
    rows.filter(dropped_at=None).update(dropped_at=F("drop_requested_at"))


class Migration(migrations.Migration):
    dependencies = [("backups_app", "0007_drop_requested")]

    operations = [migrations.RunPython(look_again, believe_the_request)]
