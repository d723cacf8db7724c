from django.urls import path

from migrations_app import views

urlpatterns = [
    path("<slug:application>/<slug:environment>/migrate", views.confirm, name="migrate"),
    path("<slug:application>/<slug:environment>/read", views.read_now, name="read-now"),
    path(
        "<slug:application>/<slug:environment>/migrations/<str:name>/resolve",
        views.resolve,
        name="migration-resolve",
    ),
    path(
        "<slug:application>/<slug:environment>/migrations/<str:name>",
        views.migration_page,
        name="migration",
    ),
]
