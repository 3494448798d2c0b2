"""Migrate the demo's database, make the admin user and an API token; the token is all that goes to standard output.

The password comes from DJANGO_SUPERUSER_PASSWORD, as `manage.py createsuperuser --noinput` has it.
"""

from __future__ import annotations

import io
import os
import sys

import django
from django.core.management import call_command


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "backupmgr.settings"
    django.setup()
    call_command("migrate", interactive=False, verbosity=1, stdout=sys.stderr)
    call_command("createsuperuser", interactive=False, username="admin", email="", stdout=sys.stderr)
    token = io.StringIO()
    call_command("create_token", user="admin", name="scripts/demo", scope="administer", stdout=token)
    print(token.getvalue().strip())


if __name__ == "__main__":
    main()
