"""Where an environment's migrations come from: a folder on the workers, or a git repository."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.conf import settings

from migrations_app.engines import ENGINES, Engine
from migrations_app.models import Repository
from migrations_app.sources import git
from migrations_app.sources.roots import allowed_roots
from opsconsole.environments.calling import call_policy
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import unseal
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn


def engine_for(environment: Environment, dsn: Dsn, commit: str = "") -> Engine:
    """The environment's engine on its migrations, at `commit` where they come from git.

    Without a commit it is the newest one of what the environment follows. On a worker. Raises
    AdapterError for a folder outside the allowed ones, and for what is wrong with a repository.
    """
    engine = ENGINES[environment.application.engine]
    repository = Repository.objects.filter(application=environment.application_id).first()
    if repository is None:
        named = environment.migrations_folder or environment.application.migrations_folder
        return engine(allowed_folder(named), dsn.schema)
    ref = repository.ref_for(environment)
    try:
        folder, revision = git.read_folder(
            as_read(repository), commit or ref, repository.folder, shown_ref=ref
        )
    except AdapterError as error:
        raise AdapterError(f"{repository.url}: {error}") from error
    return engine(folder, dsn.schema, revision)


def as_read(repository: Repository) -> git.Repository:
    """The repository as it is read on a worker. Raises AdapterError where it may not be."""
    parts = urlsplit(repository.url)
    if parts.scheme == "file":
        allowed_folder(unquote(parts.path))
    secret = unseal(repository.secret_encrypted) if repository.secret_encrypted else ""
    return git.Repository(
        repository.url,
        settings.REPOSITORIES_FOLDER,
        secret,
        settings.GIT_SECONDS,
        settings.GIT_CACHE_BYTES,
        settings.GIT_FOLDER_BYTES,
        call_policy(),
    )


def allowed_folder(path: str) -> Path:
    """Raises AdapterError for a folder outside the allowed ones, and for none."""
    if not path:
        raise AdapterError(
            "no migrations folder is set, and the application has no git repository: set one of "
            "them in the settings"
        )
    folder = Path(path).resolve()
    if not any(folder.is_relative_to(root.resolve()) for root in allowed_roots()):
        roots = ", ".join(str(root) for root in allowed_roots())
        raise AdapterError(
            f"{folder} is outside the allowed folders ({roots}): give the application an https:// "
            "or ssh:// git repository in the settings, or allow the folder on the workers' machine: "
            f"manage.py ops allow-folder {folder}"
        )
    return folder
