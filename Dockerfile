# One image for web, workers and scheduler. Holds PostgreSQL's clients 14 to 18, with TLS.
FROM python:3.12-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The newest fix of each client is wanted: versions are those of the signed repository.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git openssh-client postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install -y --no-install-recommends \
        postgresql-client-14 postgresql-client-15 postgresql-client-16 \
        postgresql-client-17 postgresql-client-18 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 opsconsole \
    && install -d -o opsconsole -g opsconsole /data /srv/migrations
WORKDIR /app
COPY requirements/production.lock requirements/production.lock
RUN pip install --no-cache-dir --require-hashes -r requirements/production.lock
COPY manage.py ./
COPY opsconsole opsconsole
COPY backups_app backups_app
COPY migrations_app migrations_app
COPY templates templates
COPY static static

USER 10001
ENV OPSCONSOLE_HOME=/data \
    OPSCONSOLE_MIGRATIONS_ROOTS=/srv/migrations \
    OPSCONSOLE_BIND=0.0.0.0 \
    PYTHONUNBUFFERED=1
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "manage.py", "up"]
