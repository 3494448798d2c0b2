"""manage.py rescan: rebuild the catalogue from what the storages hold."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.backups.catalogue import rescan
from apps.core.errors import BackupmgrError
from apps.storage.models import StorageConfig


class Command(BaseCommand):
    help = "Make the catalogue say what the storages hold. Reads manifests and sizes; changes nothing in a storage."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("storages", nargs="*", metavar="STORAGE", help="names of storages; all when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        names = options["storages"]
        storages = list(StorageConfig.objects.filter(name__in=names) if names else StorageConfig.objects.all())
        unknown = sorted(set(names) - {storage.name for storage in storages})
        if unknown:
            raise CommandError(f"No such storage: {', '.join(unknown)}.")
        if not storages:
            raise CommandError("No storage is set up yet.")
        bad = 0
        for storage in storages:
            try:
                result = rescan(storage, timezone.now())
            except BackupmgrError as error:
                raise CommandError(f"{storage.name}: {error}") from error
            bad += result.missing + result.damaged
            self.stdout.write(
                f"{storage.name}: {result.found} backups found, {result.added} new to the catalogue, "
                f"{result.missing} missing, {result.damaged} damaged"
            )
            for problem in result.problems:
                self.stdout.write(f"  {problem}")
        if bad:
            raise CommandError(f"{bad} backups are missing or damaged.", returncode=2)
