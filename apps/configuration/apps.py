from __future__ import annotations

from django.apps import AppConfig


class ConfigurationConfig(AppConfig):
    name = "apps.configuration"
    verbose_name = "Configuration"
