from __future__ import annotations

from django.apps import AppConfig


class StorageRoomConfig(AppConfig):
    name = "apps.storage"
    verbose_name = "Storages"
