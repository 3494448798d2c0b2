"""manage.py worker: run jobs until SIGTERM."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from apps.jobs.worker import Supervisor


class Command(BaseCommand):
    help = (
        "Run jobs until SIGTERM or Ctrl-C. Running jobs then stop within seconds, clean up and go back to the queue. "
        "Start as many as you like: on one host with SQLite, on several with PostgreSQL."
    )
    requires_migrations_checks = True

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(Supervisor().run())
