from __future__ import annotations

from django.apps import AppConfig


class AlertsConfig(AppConfig):
    name = "apps.alerts"
    verbose_name = "Alerts"

    def ready(self) -> None:
        from apps.alerts.schedule_parts import overdue_warnings, pings_part, targets_part
        from apps.alerts.targets import expected
        from apps.protection.expectations import register
        from apps.schedules import parts

        register(expected)
        parts.register(targets_part, overdue_warnings)
        parts.register(pings_part)
