from django.urls import path

from backups_app.views import backups, imports, restores, settings

urlpatterns = [
    path("backups", backups.backup_list, name="backups"),
    path("backups/<int:pk>", backups.backup_page, name="backup"),
    path("backups/<int:pk>/prove", backups.prove, name="backup-prove"),
    path("backups/<int:pk>/download", backups.download, name="backup-download"),
    path("backups/<int:pk>/hold", backups.hold, name="backup-hold"),
    path("backups/<int:pk>/release", backups.release, name="backup-release"),
    path("backups/<int:pk>/restore", restores.restore, name="backup-restore"),
    path("backups/<int:pk>/check", restores.check, name="restore-check"),
    path("backups/<int:pk>/check/<int:check_id>", restores.check_result, name="restore-check-result"),
    path("runs/<int:run_id>/way-back", restores.way_back, name="run-way-back"),
    path("replaced/<int:pk>/undo", restores.undo, name="replaced-undo"),
    path("replaced/<int:pk>/drop", restores.drop_replaced, name="replaced-drop"),
    path("settings/storages/add", settings.edit_storage, name="storage-add"),
    path("settings/storages/<int:pk>", settings.edit_storage, name="storage-edit"),
    path("settings/storages/<int:pk>/test", settings.storage_test, name="storage-test"),
    path("settings/storages/<int:pk>/test-again", settings.test_storage, name="storage-test-again"),
    path("settings/storages/<int:pk>/retire", settings.retire_storage, name="storage-retire"),
    path("applications/<slug:application>/<slug:environment>/backup", backups.back_up, name="back-up"),
    path("applications/<slug:application>/<slug:environment>/import", imports.import_backup,
         name="backup-import"),
    path("applications/<slug:application>/<slug:environment>/backup-policy", settings.edit_policy,
         name="backup-policy"),
    path("applications/<slug:application>/<slug:environment>/prune", settings.prune, name="prune"),
]  # fmt: skip
