from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0010_health_rollups"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditevent",
            name="sentence",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
