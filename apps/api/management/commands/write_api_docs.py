"""manage.py write_api_docs: write docs/api.md anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.api.reference import render


class Command(BaseCommand):
    help = "Write docs/api.md from the schema: every operation, its permission, an example, its errors."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail when the page is out of date")

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(settings.BASE_DIR) / "docs" / "api.md"
        page = render()
        if not options["check"]:
            path.write_text(page, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != page:
            raise CommandError("docs/api.md is out of date: run manage.py write_api_docs.")
