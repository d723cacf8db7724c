from django.urls import path

from opsconsole.audit import views

urlpatterns = [
    path("audit", views.audit_list, name="audit"),
    path("audit/<int:event_id>", views.audit_event, name="audit-event"),
    path("audit.csv", views.audit_csv, name="audit-csv"),
]
