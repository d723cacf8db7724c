from django.urls import path

from migrations_app.views import applications, drift, findings, migrations, repositories

urlpatterns = [
    path("settings/applications/add", applications.add, name="application-add"),
    path("settings/sources/<int:pk>", applications.source, name="source-edit"),
    path("settings/sources/<int:pk>/save", applications.save, name="source-save"),
    path("settings/applications/<int:pk>/repository", repositories.edit, name="repository-edit"),
    path(
        "settings/applications/<int:pk>/repository/remove",
        repositories.remove,
        name="repository-remove",
    ),
    path("settings/applications/<int:pk>/lint", findings.edit_levels, name="lint-levels"),
    path(
        "applications/<slug:application>/<slug:environment>/migrate",
        migrations.confirm,
        name="migrate",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/drift/check",
        drift.check,
        name="drift-check",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/drift/acknowledge",
        drift.acknowledge,
        name="drift-acknowledge",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/drift/adopt",
        drift.adopt,
        name="drift-adopt",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/drift.sql", drift.sql, name="drift-sql"
    ),
    path(
        "applications/<slug:application>/<slug:environment>/drift/log.sql",
        drift.log_script,
        name="drift-log-script",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/read",
        migrations.read_now,
        name="read-now",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/end-session",
        migrations.end_session,
        name="end-session",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/migrations/<str:name>/applied.sql",
        migrations.applied_text,
        name="applied-text",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/migrations/<str:name>/waive",
        findings.waive,
        name="finding-waive",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/migrations/<str:name>/waivers/<int:pk>/withdraw",
        findings.withdraw,
        name="waiver-withdraw",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/migrations/<str:name>/resolve",
        migrations.resolve,
        name="migration-resolve",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/migrations/<str:name>",
        migrations.migration_page,
        name="migration",
    ),
]
