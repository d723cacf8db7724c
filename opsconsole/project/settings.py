"""Settings. The only reader of the process environment; `.env.example` lists every variable."""

from pathlib import Path

import environ
from csp.constants import NONE, SELF

from opsconsole.embedded.home import Home
from opsconsole.outgoing import DENIED, CallPolicy
from opsconsole.project.networks import is_loopback, networks_named

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parents[2]
environ.Env.read_env(BASE_DIR / ".env")

# Where the console keeps its data. With no DATABASE_URL and REDIS_URL, `manage.py up` also
# runs PostgreSQL and Valkey there, and every other command finds them by this folder alone.
OPSCONSOLE_HOME = Home(Path(env.str("OPSCONSOLE_HOME", default=str(BASE_DIR / "var"))).absolute())
_addresses = OPSCONSOLE_HOME.read_addresses()
_keys = OPSCONSOLE_HOME.read_keys()

DATABASE_URL = env.str("DATABASE_URL", default="") or _addresses.database_url
REDIS_URL = env.str("REDIS_URL", default="") or _addresses.redis_url
EMBEDDED = not (env.str("DATABASE_URL", default="") and env.str("REDIS_URL", default=""))
DEMO = env.bool("OPSCONSOLE_DEMO", default=EMBEDDED)

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="") or _keys.secret_key or "unset-until-up-makes-one"
# First key encrypts, all of them decrypt: put a new one in front to rotate.
ENCRYPTION_KEYS = env.list("OPSCONSOLE_ENCRYPTION_KEYS", default=[]) or _keys.encryption_keys
BIND = env.str("OPSCONSOLE_BIND", default="127.0.0.1")
PORT = env.int("OPSCONSOLE_PORT", default=8000)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
HTTPS = env.bool("OPSCONSOLE_HTTPS", default=not EMBEDDED)
TRUSTED_PROXIES = networks_named("OPSCONSOLE_TRUSTED_PROXIES")
# Whether nobody but this machine can reach it: the people of the demo share a password.
IS_HERE_ONLY = is_loopback(BIND) and not TRUSTED_PROXIES

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "opsconsole",
    "backups_app",
    "migrations_app",
    "opsconsole.project",
]
MIDDLEWARE = [
    "opsconsole.web.proxies.TrustedProxiesMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "opsconsole.web.middleware.CompressedPagesMiddleware",
    "csp.middleware.CSPMiddleware",
    "opsconsole.web.middleware.PermissionsPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "opsconsole.access.session_ends.SignInMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "opsconsole.access.session_ends.SessionEndsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "opsconsole.web.middleware.VisibleTextMiddleware",
    "opsconsole.access.middleware.RequestContextMiddleware",
    "opsconsole.audit.middleware.RefusalsMiddleware",
    "opsconsole.web.middleware.RefusedMiddleware",
    "opsconsole.project.moved.MovedMiddleware",
]

FILE_UPLOAD_HANDLERS = [
    "opsconsole.web.uploads.SignedInOnly",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]
ROOT_URLCONF = "opsconsole.project.urls"
WSGI_APPLICATION = "opsconsole.project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": [
                "django.templatetags.i18n",
                "django.templatetags.static",
                "opsconsole.templatetags.console",
            ],
        },
    },
]

DATABASES = {"default": env.db_url_config(DATABASE_URL or "postgresql://opsconsole@/opsconsole")}
DATABASES["default"].setdefault("OPTIONS", {}).update(
    {
        "application_name": "opsconsole",
        "connect_timeout": 5,
        # A server that is gone without a word is known to be within 11 s, well within a lease.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 11_000,
    }
)
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"]["TEST"] = {"NAME": "test_opsconsole"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "opsconsole.User"
AUTHENTICATION_BACKENDS = ["opsconsole.access.sign_in.LimitedBackend"]
# django-allauth asks for second factors. Accounts are the console's own: nobody signs up.
ACCOUNT_ADAPTER = "opsconsole.access.allauth_adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
# Its own limits lock a name for everybody; see opsconsole/access/guessing.py for the console's.
ACCOUNT_RATE_LIMITS = MFA_RATE_LIMITS = False
ACCOUNT_REAUTHENTICATION_TIMEOUT = 600
MFA_ADAPTER = "opsconsole.access.allauth_adapters.FactorsAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = "Ops Console"
# A clock may be a step of 30 s early or late.
MFA_TOTP_TOLERANCE = 1
# What a link to set a password is good for.
PASSWORD_RESET_TIMEOUT = 24 * 3600
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
CSRF_FAILURE_VIEW = "opsconsole.web.errors.stale_form"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign-in"

LANGUAGE_CODE = "en"
# Those that the console speaks: a browser that asks for another one gets no half of it in that.
LANGUAGES = [("en", "English")]
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = OPSCONSOLE_HOME.path / "static"
# `prepare` collects them, each with a compressed twin.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEBUG

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "form-action": [SELF],
        "base-uri": [NONE],
        "object-src": [NONE],
        "frame-ancestors": [NONE],
    }
}
# No other host, and no page without HTTPS, can set or overwrite them: RFC 6265bis, 4.1.3.2.
COOKIE_PREFIX = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = f"{COOKIE_PREFIX}sessionid", f"{COOKIE_PREFIX}csrftoken"
MESSAGE_STORAGE = "opsconsole.web.messages.MessageStorage"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^health$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
# Only a named proxy gets this far with it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Since the sign-in, and since the person last used it.
SESSION_SERIALIZER = "opsconsole.access.sealing.SealedSerializer"
SESSION_COOKIE_AGE = env.int("OPSCONSOLE_SESSION_HOURS", default=12) * 3600
SESSION_IDLE_SECONDS = env.int("OPSCONSOLE_SESSION_IDLE_MINUTES", default=120) * 60
# Whom to tell of a weakness, as an address: mailto:, https: or tel:.
SECURITY_CONTACT = env.str("OPSCONSOLE_SECURITY_CONTACT", default="")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A hint is tried once: Kombu would try for 6 s, in the request of the person who asks.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "max_retries": 0,
}
CELERY_TASK_DEFAULT_QUEUE = "short"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
SHORT_QUEUE = "short"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="WARNING")},
    "loggers": {
        "opsconsole": {"level": "INFO"},
        "celery.worker.consumer": {"level": "ERROR"},
    },
}

# Defaults of a new environment. 0 days keeps every backup until its admin says otherwise.
DATABASE_BACKUP_RETENTION_DAYS = env.int("DATABASE_BACKUP_RETENTION_DAYS", default=0)
MIGRATION_BACKUP_ENABLED = env.bool("MIGRATION_BACKUP_ENABLED", default=True)
MIGRATION_ROLLBACK_ENABLED = env.bool("MIGRATION_ROLLBACK_ENABLED", default=True)
# How many months the log of a run is kept after its end; 0 for ever.
LOG_MONTHS = env.int("OPSCONSOLE_LOG_MONTHS", default=0)
# A migrations folder must lie under one of these. Naming some does not take the demo's away.
_roots = [Path(root).absolute() for root in env.list("OPSCONSOLE_MIGRATIONS_ROOTS", default=[])]
MIGRATIONS_ROOTS = [*_roots, OPSCONSOLE_HOME.path / "demo"] if _roots else [OPSCONSOLE_HOME.path]
# Networks that the console calls though they lie in a denied one, and those that it does not call.
CALL_POLICY = CallPolicy(
    allowed=networks_named("OPSCONSOLE_CALLS_ALLOWED"),
    denied=networks_named("OPSCONSOLE_CALLS_DENIED", default=DENIED),
)
# Names of the variables that an address may refer to as env:NAME, as patterns.
TARGET_VARIABLES = env.list("OPSCONSOLE_TARGET_VARIABLES", default=["*_URL", "*_DSN"])
# What is fetched from git repositories, and how much of it, in bytes and seconds.
REPOSITORIES_FOLDER = OPSCONSOLE_HOME.path / "repositories"
GIT_SECONDS = env.float("OPSCONSOLE_GIT_SECONDS", default=60)
GIT_CACHE_BYTES = env.int("OPSCONSOLE_GIT_CACHE_MB", default=512) * 1_000_000
GIT_FOLDER_BYTES = env.int("OPSCONSOLE_GIT_FOLDER_MB", default=64) * 1_000_000
BACKUPS_FOLDER = Path(
    env.str("OPSCONSOLE_BACKUPS", default=str(OPSCONSOLE_HOME.path / "backups"))
).absolute()
# Where archives are unpacked for parallel dumps and restores.
BACKUPS_SCRATCH = Path(
    env.str("OPSCONSOLE_BACKUPS_SCRATCH", default=str(OPSCONSOLE_HOME.path / "scratch"))
).absolute()
# age secret keys: the first encrypts (its public half), all of them decrypt.
BACKUP_IDENTITIES = env.list("OPSCONSOLE_BACKUP_IDENTITIES", default=[]) or _keys.backup_identities
# More folders that hold PostgreSQL client tools; Debian's and the embedded ones are found.
PG_TOOLS_FOLDERS = env.list("OPSCONSOLE_PG_TOOLS", default=[])

# Durations in seconds. TIME_SCALE shortens those that follow a fault, so that tests need not wait.
TIME_SCALE = env.float("OPSCONSOLE_TIME_SCALE", default=1.0)
LEASE_SECONDS = 30 * TIME_SCALE
LEASE_RENEW_SECONDS = 5 * TIME_SCALE
LEASE_REAP_GRACE_SECONDS = 10 * TIME_SCALE
CANCEL_POLL_SECONDS = 1 * TIME_SCALE
TOOL_HEARTBEAT_SECONDS = 20 * TIME_SCALE
TOOL_TERM_GRACE_SECONDS = 10 * TIME_SCALE
SWEEP_AFTER_SECONDS = 30 * TIME_SCALE
SCHEDULER_TICK_SECONDS = max(TIME_SCALE, 0.2)
# Work that failed is tried again after 5, 10, 20 … seconds, and at least every quarter of an hour.
WORK_RETRY_SECONDS = 5 * TIME_SCALE
WORK_RETRY_CEILING_SECONDS = 900 * TIME_SCALE
WORK_LATE_ATTEMPTS = 3
WORK_LATE_SECONDS = 180 * TIME_SCALE
HEALTH_SAMPLE_SECONDS = 60
OBSERVE_SECONDS = 60
DRIFT_SECONDS = 600
TEND_SECONDS = 20
PRUNE_SECONDS = 3600
STATE_FRESH_SECONDS = 15
WORKER_SEEN_SECONDS = 5
LOG_FLUSH_SECONDS = 0.25
# Lines of a run that wait for the console's database: so many bytes in memory, then in a file.
LOG_MEMORY_BYTES = 4_000_000
LOG_SPILL_BYTES = 256_000_000
LOG_SPILL_FOLDER = BACKUPS_SCRATCH
AVAILABILITY_SAMPLE_SECONDS = 0.02
PRISMA_LOCK_WAIT_SECONDS = 10 * TIME_SCALE
