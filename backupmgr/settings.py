"""Settings, read from the environment (or a `.env` file beside manage.py).

Every name read here stands in `.env.example` and in docs/operations.md; a test holds the three together.
"""

from __future__ import annotations

import secrets
from ipaddress import ip_network
from pathlib import Path

import environ
from cryptography.fernet import Fernet
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from apps.core.outbound import Rules
from backupmgr.admin_look import UNFOLD  # noqa: F401 - a setting of that name
from backupmgr.keyfiles import load_or_create

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")

# --- Where things live -------------------------------------------------------------------------------------
DATA_DIR = Path(env.str("BACKUPMGR_DATA_DIR", default=str(BASE_DIR / "var"))).resolve()
DATA_DIR.mkdir(parents=True, exist_ok=True)

# --- Secrets -----------------------------------------------------------------------------------------------
SECRET_KEY = env.str("BACKUPMGR_SECRET_KEY", default="") or load_or_create(
    DATA_DIR / "secret.key", lambda: secrets.token_urlsafe(48)
)
# Newest first: the first one encrypts, all of them decrypt (apps/core/crypto.py).
BACKUPMGR_FIELD_KEYS: list[str] = (
    env.list("BACKUPMGR_FIELD_KEYS", default=[])
    or load_or_create(DATA_DIR / "field.keys", lambda: Fernet.generate_key().decode()).split()
)

# --- Web ---------------------------------------------------------------------------------------------------
DEBUG = env.bool("BACKUPMGR_DEBUG", default=False)
ALLOWED_HOSTS: list[str] = env.list("BACKUPMGR_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("BACKUPMGR_TRUSTED_ORIGINS", default=[])
BACKUPMGR_HTTPS = env.bool("BACKUPMGR_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BACKUPMGR_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BACKUPMGR_HTTPS else None
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_NAME = "backupmgr_session"
CSRF_COOKIE_NAME = "backupmgr_csrf"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # bytes; the largest JSON body that an operation here needs is far smaller

# Nothing is loaded from elsewhere, no script stands in a page, nothing frames it. An answer that brings a policy of its
# own keeps it (the two pages that show the API's schema).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

ROOT_URLCONF = "backupmgr.urls"
WSGI_APPLICATION = "backupmgr.wsgi.application"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "apps.core",
    "apps.audit",
    "apps.clusters",
    "apps.storage",
    "apps.backups",
    "apps.jobs",
    "apps.schedules",
    "apps.protection",
    "apps.alerts",
    "apps.configuration",
    "apps.api",
    # Last: its admin.py gives the accounts our look and takes the queue's tables away, after both have registered.
    "backupmgr",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "apps.audit.middleware.AuditMiddleware",
    "apps.core.zone.ZoneMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
]

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
        },
    }
]

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
STATICFILES_DIRS = [BASE_DIR / "static"]
# Served by the web process itself; files are found through the finders, so nothing has to be collected first.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

# --- Database ----------------------------------------------------------------------------------------------
DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'backupmgr.sqlite3'}")}
DATABASES["default"].setdefault("OPTIONS", {})
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # IMMEDIATE + WAL: a deferred transaction that turns from reading to writing fails with "database is locked"
    # at once, whatever the time-out; one that starts as a writer waits its turn. The address may say otherwise
    # (sqlite:////path?timeout=60, in seconds).
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA foreign_keys=ON;",
    } | DATABASES["default"]["OPTIONS"]
else:
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    DATABASES["default"]["CONN_MAX_AGE"] = 60

# --- Accounts ----------------------------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# So many failed attempts to sign in with one name from one address within so many minutes, and further ones are
# refused for as long.
BACKUPMGR_LOGIN_FAILURES = env.int("BACKUPMGR_LOGIN_FAILURES", default=10)
BACKUPMGR_LOGIN_LOCK_MINUTES = env.int("BACKUPMGR_LOGIN_LOCK_MINUTES", default=15)
# Proxies (IP addresses, networks) whose X-Forwarded-For tells where a request comes from.
BACKUPMGR_TRUSTED_PROXIES: list[str] = env.list("BACKUPMGR_TRUSTED_PROXIES", default=[])
if BACKUPMGR_LOGIN_FAILURES < 1 or BACKUPMGR_LOGIN_LOCK_MINUTES < 1:
    raise ImproperlyConfigured("BACKUPMGR_LOGIN_FAILURES and BACKUPMGR_LOGIN_LOCK_MINUTES must be 1 or more.")
try:
    [ip_network(proxy) for proxy in BACKUPMGR_TRUSTED_PROXIES]
except ValueError as error:
    raise ImproperlyConfigured(f"BACKUPMGR_TRUSTED_PROXIES lists IP addresses and networks: {error}.") from error

# --- Language and time -------------------------------------------------------------------------------------
LANGUAGE_CODE = "en-gb"
TIME_ZONE = env.str("BACKUPMGR_TIME_ZONE", default="UTC")
USE_I18N = False
USE_TZ = True

# --- Storages ----------------------------------------------------------------------------------------------
# Folder storages live below these folders and nowhere else.
BACKUPMGR_LOCAL_ROOTS: list[str] = env.list("BACKUPMGR_LOCAL_ROOTS", default=[str(DATA_DIR / "storages")])

# --- Addresses that people give -------------------------------------------------------------------------------
# Networks, IP addresses and host names (globs). Denied is denied; when anything is allowed, nothing else is.
BACKUPMGR_OUTBOUND_ALLOW: list[str] = env.list("BACKUPMGR_OUTBOUND_ALLOW", default=[])
BACKUPMGR_OUTBOUND_DENY: list[str] = env.list("BACKUPMGR_OUTBOUND_DENY", default=[])
# Whether a recovery may read a file of the node (file://).
BACKUPMGR_ALLOW_FILE_LOCATION = env.bool("BACKUPMGR_ALLOW_FILE_LOCATION", default=True)
try:
    Rules.of(BACKUPMGR_OUTBOUND_ALLOW + BACKUPMGR_OUTBOUND_DENY)
except ValueError as error:
    raise ImproperlyConfigured(f"BACKUPMGR_OUTBOUND_ALLOW or BACKUPMGR_OUTBOUND_DENY: {error}") from error

# --- Alerts ------------------------------------------------------------------------------------------------
# The mail server that alerts go through, for example smtp+tls://user:password@mail.example.com:587.
_EMAIL_URL = env.str("BACKUPMGR_EMAIL_URL", default="")
BACKUPMGR_EMAIL_CONFIGURED = bool(_EMAIL_URL)
vars().update(environ.Env.email_url_config(_EMAIL_URL or "consolemail://"))
DEFAULT_FROM_EMAIL = env.str("BACKUPMGR_EMAIL_FROM", default="backupmgr@localhost")
# Where people reach these pages; alerts link there.
BACKUPMGR_PUBLIC_URL = env.str("BACKUPMGR_PUBLIC_URL", default="")
# For how long a receiver of alerts may keep us waiting, to connect and to answer.
BACKUPMGR_ALERT_TIMEOUT_SECONDS = env.float("BACKUPMGR_ALERT_TIMEOUT_SECONDS", default=5.0)
# Above so many targets (a collection of a schedule) /metrics tells of schedules instead of collections.
BACKUPMGR_METRICS_MAX_TARGETS = env.int("BACKUPMGR_METRICS_MAX_TARGETS", default=5000)

# --- Jobs --------------------------------------------------------------------------------------------------
BACKUPMGR_WORKERS = env.int("BACKUPMGR_WORKERS", default=2)
# A running job whose lease has not been renewed for this long is taken from its worker.
BACKUPMGR_LEASE_SECONDS = env.int("BACKUPMGR_LEASE_SECONDS", default=60)
# How often the worker's supervisor looks after leases, waiting jobs and left-overs.
BACKUPMGR_TICK_SECONDS = env.float("BACKUPMGR_TICK_SECONDS", default=5.0)
# How often each cluster is asked how it is and which collections it has; 0 for never, and then nobody can vouch for it.
BACKUPMGR_CHECK_SECONDS = env.float("BACKUPMGR_CHECK_SECONDS", default=60.0)
# How often a job may start anew after its worker vanished.
BACKUPMGR_MAX_ATTEMPTS = env.int("BACKUPMGR_MAX_ATTEMPTS", default=3)
# A job that failed for a cause that may pass is tried again by itself after so long; as often as there are numbers.
BACKUPMGR_RETRY_DELAYS_SECONDS: list[float] = env(
    "BACKUPMGR_RETRY_DELAYS_SECONDS", cast=[float], default=[60.0, 300.0, 1800.0]
)
# A job that could start has waited this long while its worker runs nothing: the queue is stuck and is restarted.
BACKUPMGR_STUCK_SECONDS = env.int("BACKUPMGR_STUCK_SECONDS", default=60)
# No byte for this long, on either side of a transfer: the connection counts as dead.
BACKUPMGR_STALL_SECONDS = env.int("BACKUPMGR_STALL_SECONDS", default=60)
# A transfer waits so long, without a byte, for a node or a storage that is away, and then goes on where it broke.
BACKUPMGR_OUTAGE_SECONDS = env.int("BACKUPMGR_OUTAGE_SECONDS", default=300)
# What all transfers of a job may hold in memory together, in MiB, however many nodes and shards are under way at once.
BACKUPMGR_BUFFER_MB = env.int("BACKUPMGR_BUFFER_MB", default=96)
# Time for one small request to Qdrant (not for snapshots: those take as long as they take).
BACKUPMGR_QDRANT_TIMEOUT_SECONDS = env.int("BACKUPMGR_QDRANT_TIMEOUT_SECONDS", default=30)
# Time for the calls in which a node makes or restores one snapshot.
BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS = env.int("BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS", default=6 * 3600)
# How often a worker looks for what was left behind or got lost, in storages and on nodes; 0 for never.
BACKUPMGR_RECONCILE_HOURS = env.float("BACKUPMGR_RECONCILE_HOURS", default=6.0)
# What is younger is left alone; what is provably ours and older is removed.
BACKUPMGR_RECONCILE_AGE_HOURS = env.float("BACKUPMGR_RECONCILE_AGE_HOURS", default=24.0)
# A node that did not answer the request for a snapshot, and makes none: so long the job looks for it all the same.
BACKUPMGR_LOST_ANSWER_SECONDS = env.int("BACKUPMGR_LOST_ANSWER_SECONDS", default=30)
# What could not be removed is tried again after so long; each further pause is twice as long, an hour at most.
BACKUPMGR_LEFTOVER_SECONDS = env.int("BACKUPMGR_LEFTOVER_SECONDS", default=20)
# For so many days it stays on record which backups were deleted, when and why.
BACKUPMGR_DELETED_DAYS = env.int("BACKUPMGR_DELETED_DAYS", default=400)
# How long a presigned address stays valid that a Qdrant node restores from.
BACKUPMGR_PRESIGN_SECONDS = env.int("BACKUPMGR_PRESIGN_SECONDS", default=6 * 3600)

# --- Verification ------------------------------------------------------------------------------------------
# Where a part lies while Qdrant's engine has it open; needs about twice the size of the largest part.
BACKUPMGR_SCRATCH_DIR = env.str("BACKUPMGR_SCRATCH_DIR", default=str(DATA_DIR / "scratch"))
# Memory of its own that the engine's process may use (mapped files do not count).
BACKUPMGR_ENGINE_MEMORY_MB = env.int("BACKUPMGR_ENGINE_MEMORY_MB", default=4096)
# How long the engine may take for one step (unpacking a part, opening it) before it is given up.
BACKUPMGR_ENGINE_TIMEOUT_SECONDS = env.int("BACKUPMGR_ENGINE_TIMEOUT_SECONDS", default=3600)
# After a restore points are compared with the backup one by one; unless a restore asks for it, parts are opened for
# that only up to so much together. 0: never.
BACKUPMGR_SAMPLE_MAX_MB = env.int("BACKUPMGR_SAMPLE_MAX_MB", default=1024)
if BACKUPMGR_ENGINE_MEMORY_MB < 256 or BACKUPMGR_ENGINE_TIMEOUT_SECONDS < 1:
    raise ImproperlyConfigured(
        "BACKUPMGR_ENGINE_MEMORY_MB must be 256 or more, BACKUPMGR_ENGINE_TIMEOUT_SECONDS 1 or more."
    )

if BACKUPMGR_RECONCILE_HOURS < 0 or BACKUPMGR_RECONCILE_AGE_HOURS < 0:
    raise ImproperlyConfigured("BACKUPMGR_RECONCILE_HOURS and BACKUPMGR_RECONCILE_AGE_HOURS must be 0 or more.")
if BACKUPMGR_WORKERS < 1 or BACKUPMGR_LEASE_SECONDS < 3 or BACKUPMGR_TICK_SECONDS <= 0 or BACKUPMGR_CHECK_SECONDS < 0:
    raise ImproperlyConfigured(
        "BACKUPMGR_WORKERS must be 1 or more, BACKUPMGR_LEASE_SECONDS 3 or more, BACKUPMGR_TICK_SECONDS above 0, "
        "BACKUPMGR_CHECK_SECONDS 0 or more."
    )

if not 1 <= BACKUPMGR_DELETED_DAYS <= 36_500:
    raise ImproperlyConfigured("BACKUPMGR_DELETED_DAYS must be 1 to 36500: 400 keeps a year's deletions on record.")
if BACKUPMGR_BUFFER_MB < 1:
    raise ImproperlyConfigured("BACKUPMGR_BUFFER_MB must be 1 or more.")
if not all(0 <= delay <= 86400 for delay in BACKUPMGR_RETRY_DELAYS_SECONDS):
    raise ImproperlyConfigured("BACKUPMGR_RETRY_DELAYS_SECONDS lists seconds, each 0 to 86400 (a day).")

# What the worker's supervisor calls at every tick, with `now`: rooms above the jobs hang themselves in here.
TICKERS = ["apps.schedules.tick.tick", "apps.alerts.tick.tick"]

# django-q2 carries "run job X" and nothing else; the Job row is the truth (apps/jobs). Its own time-out must
# never fire and its redelivery must never be needed, hence a week.
Q_CLUSTER = {
    "name": "backupmgr",
    "orm": "default",
    "workers": BACKUPMGR_WORKERS,
    "queue_limit": 1,
    "bulk": 1,
    "poll": 0.3,
    "guard_cycle": 0.5,
    "timeout": 7 * 86400,
    "retry": 7 * 86400 + 600,
    "ack_failures": True,
    "max_attempts": 1,
    "catch_up": False,
    "save_limit": -1,
    "recycle": 50,
    "scheduler": False,
    "label": "Queue",
}

# --- API -----------------------------------------------------------------------------------------------------
# Let anybody who can reach the address read (not change) through the API, without a token.
BACKUPMGR_ANONYMOUS_READ = env.bool("BACKUPMGR_ANONYMOUS_READ", default=False)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.api.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["apps.api.permissions.OperationPermission"],
    "DEFAULT_RENDERER_CLASSES": ["apps.api.envelope.EnvelopeRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.api.exceptions.exception_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "DATETIME_FORMAT": "iso-8601",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "backupmgr",
    "DESCRIPTION": "Backs up and restores Qdrant vector databases, with evidence.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "SCHEMA_PATH_PREFIX_TRIM": True,
    "SERVERS": [{"url": "/api/v1"}],
}

# --- Logs --------------------------------------------------------------------------------------------------
LOG_LEVEL = env.str("BACKUPMGR_LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        # botocore logs requests with their signatures at DEBUG, urllib3 whole addresses: never below WARNING.
        "botocore": {"level": "WARNING"},
        "boto3": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
        "s3transfer": {"level": "WARNING"},
    },
}
