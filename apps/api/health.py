"""For whatever watches the process: alive, and ready for work. No key is needed, and nothing is given away."""

from __future__ import annotations

import logging

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.jobs.health import stuck_sentence, worker_state
from apps.schedules.clock import tick_problem

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Say that the web process answers."""
    return HttpResponse("ok\n", content_type="text/plain; charset=utf-8")


@never_cache
@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """The same under the name that Kubernetes uses."""
    return healthz(request)


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when database and migrations are fine, a worker has been seen lately and jobs reach it; else 503."""
    checks = readiness()
    ready = all(reason == "" for reason in checks.values())
    body = {"ready": ready, "checks": {name: reason or "ok" for name, reason in checks.items()}}
    return JsonResponse(body, status=200 if ready else 503)


def readiness() -> dict[str, str]:
    """Return check → what is wrong; empty for what is fine."""
    try:
        missing = _unapplied_migrations()
    except DatabaseError:
        logger.warning("The readiness check cannot reach the database.", exc_info=True)
        return {"database": "the database does not answer"}
    if missing:
        return {"database": "", "migrations": f"{missing} migrations are not applied: run manage.py migrate"}
    now = timezone.now()
    workers = worker_state(now)
    return {
        "database": "",
        "migrations": "",
        "worker": "" if workers.alive else workers.sentence,
        "queue": stuck_sentence(now) if workers.alive else "",
        "schedules": tick_problem(now) if workers.alive else "",
    }


def _unapplied_migrations() -> int:
    """Count migrations that wait. Raises: DatabaseError."""
    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
