"""The composition root: the only package that knows the features."""

from opsconsole.project.celery import app as celery_app

__all__ = ["celery_app"]
