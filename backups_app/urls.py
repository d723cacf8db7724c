from django.urls import path

from backups_app import views

urlpatterns = [
    path("backups", views.backup_list, name="backups"),
    path("backups/<int:pk>", views.backup_page, name="backup"),
    path("backups/<int:pk>/prove", views.prove, name="backup-prove"),
    path("backups/<int:pk>/restore", views.restore, name="backup-restore"),
    path("runs/<int:run_id>/way-back", views.way_back, name="run-way-back"),
    path("replaced/<int:pk>/drop", views.drop_replaced, name="replaced-drop"),
    path("<slug:application>/<slug:environment>/backup", views.back_up, name="back-up"),
]
