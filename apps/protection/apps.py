from __future__ import annotations

from django.apps import AppConfig


class ProtectionConfig(AppConfig):
    name = "apps.protection"
    verbose_name = "Protection"
