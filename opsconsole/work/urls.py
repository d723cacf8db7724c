from django.urls import path

from opsconsole.work import views

urlpatterns = [
    path("work/<int:pk>/retry", views.retry, name="work-retry"),
]
