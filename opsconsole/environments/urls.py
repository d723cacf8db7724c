from django.urls import path

from opsconsole.environments import draft_views, views

urlpatterns = [
    path("settings/applications/<int:pk>", views.edit_application, name="application-edit"),
    path(
        "settings/applications/<int:pk>/archive",
        views.archive_application,
        name="application-archive",
    ),
    path(
        "settings/applications/<int:application_id>/environments/add",
        draft_views.add_environment,
        name="environment-add",
    ),
    path(
        "settings/applications/<int:application_id>/environments/<int:pk>",
        views.edit_environment,
        name="environment-edit",
    ),
    path(
        "settings/environments/<int:pk>/archive",
        views.archive_environment,
        name="environment-archive",
    ),
    path("settings/drafts/<int:pk>", draft_views.edit_draft, name="draft-edit"),
    path("settings/drafts/<int:pk>/save", draft_views.save_draft, name="draft-save"),
    path("settings/drafts/<int:pk>/discard", draft_views.discard_draft, name="draft-discard"),
    path("settings/connections/<int:pk>", views.connection_test, name="connection-test"),
    path("settings/connections/<int:pk>/test", views.test_connection, name="test-connection"),
]
