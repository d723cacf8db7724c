from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0017_count_refused_strangers"),
    ]

    operations = [
        migrations.AddField(
            model_name="target",
            name="quarantine_dsn_encrypted",
            field=models.TextField(blank=True, db_default=""),
        ),
    ]
