"""Run a Qdrant-compatible sandbox node, or a cluster of them, to try backupmgr with."""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Hands over to `python -m apps.sandbox`, which knows nothing of Django."""

    help = "Run a sandbox node, or --nodes N of them as a cluster, on Qdrant's own engine: sandbox --data DIR --port N"
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "arguments", nargs=REMAINDER, help="as of python -m apps.sandbox; --help after -- lists them"
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Become the sandbox; it reads its arguments itself."""
        given = [one for one in argv[2:] if one != "--"]
        os.execv(sys.executable, [sys.executable, "-m", "apps.sandbox", *given])  # noqa: S606, our own program

    def handle(self, *args: Any, **options: Any) -> None:
        """Do the same when called from code."""
        self.run_from_argv(["manage.py", "sandbox", *options["arguments"]])
