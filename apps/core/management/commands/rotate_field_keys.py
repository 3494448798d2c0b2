"""manage.py rotate_field_keys: encrypt every stored secret with the newest key."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from apps.core.crypto import UndecryptableSecret, rotate
from apps.core.fields import EncryptedField, Secret
from apps.core.text import plural


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret with the newest key of BACKUPMGR_FIELD_KEYS. Put the new key in front, restart, "
        "run this, then remove the old key."
    )

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        count = 0
        for model in apps.get_models():
            names = [field.attname for field in model._meta.concrete_fields if isinstance(field, EncryptedField)]
            for row in model._default_manager.select_for_update().all() if names else ():
                for name in names:
                    secret: Secret = getattr(row, name)
                    if not secret:
                        continue
                    try:
                        setattr(row, name, Secret(rotate(secret.token)))
                    except UndecryptableSecret as error:
                        raise CommandError(
                            f"{model._meta.verbose_name} {row}, {name}: {error} Nothing was changed."
                        ) from error
                    count += 1
                model._default_manager.filter(pk=row.pk).update(**{name: getattr(row, name) for name in names})
        self.stdout.write(f"{plural(count, 'secret')} encrypted with the newest key.")
