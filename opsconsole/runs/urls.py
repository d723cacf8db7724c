from django.urls import path

from opsconsole.runs import views

urlpatterns = [
    path("runs", views.run_list, name="runs"),
    path("runs/<int:run_id>", views.run_page, name="run"),
    path("runs/<int:run_id>/status", views.run_status, name="run-status"),
    path("runs/<int:run_id>/rest", views.run_rest, name="run-rest"),
    path("runs/<int:run_id>/log", views.run_log_tail, name="run-log"),
    path("runs/<int:run_id>/log.txt", views.run_log_download, name="run-log-download"),
    path("runs/<int:run_id>/cancel", views.cancel, name="run-cancel"),
    path("runs/<int:run_id>/decide", views.decide, name="run-decide"),
]
