from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("opsconsole", "0015_summary_parts"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="session_generation",
            field=models.PositiveIntegerField(default=0, db_default=0),
        ),
    ]
