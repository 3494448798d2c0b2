"""manage.py create_token: make an API token and print its secret, once."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.api.services import create_token
from apps.core.errors import BackupmgrError
from apps.core.permissions import Scope

_MAX_DAYS = 36500


class Command(BaseCommand):
    help = "Creates an API token for a user and prints its secret: on standard output, once, and nothing else there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", required=True, help="login name of the owner")
        parser.add_argument("--name", required=True, help="what will use the token")
        parser.add_argument("--scope", required=True, choices=[scope.label for scope in Scope])
        parser.add_argument("--expires-days", type=int, help="days until it expires; without it, never")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        user = users.objects.filter(**{users.USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no user named {options['user']!r}.")
        days = options["expires_days"]
        if days is not None and not 1 <= days <= _MAX_DAYS:
            raise CommandError(f"--expires-days must be between 1 and {_MAX_DAYS}.")
        now = timezone.now()
        try:
            token, secret = create_token(
                user=user,
                name=options["name"],
                scope=Scope[options["scope"].upper()],
                now=now,
                expires_at=None if days is None else now + timedelta(days=days),
            )
        except BackupmgrError as error:
            raise CommandError(str(error)) from error
        self.stderr.write(f"Token {token} with scope {token.scope} for {user}. Keep the secret: it is not shown again.")
        self.stdout.write(secret)
