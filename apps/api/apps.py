from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


class ApiConfig(AppConfig):
    name = "apps.api"
    verbose_name = "API"

    def ready(self) -> None:
        from apps.api.checks import check_scopes_declared
        from apps.api.groups import ensure_groups

        post_migrate.connect(ensure_groups, sender=self, dispatch_uid="backupmgr-groups")
        checks.register(check_scopes_declared, checks.Tags.security)
