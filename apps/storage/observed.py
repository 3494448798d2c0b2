"""Rows of what came of looks at storages (observations.py writes them)."""

from __future__ import annotations

from django.db import models


class StorageObservation(models.Model):
    """The last look at one storage: when it was tried, when it last answered, and why it does not."""

    storage = models.OneToOneField(
        "storage.StorageConfig", on_delete=models.CASCADE, primary_key=True, related_name="observation"
    )
    next_check_at = models.DateTimeField(db_index=True)
    tried_at = models.DateTimeField(null=True, blank=True)
    #: Null when it has never answered.
    seen_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    #: Why the last try failed; empty when it did not.
    problem = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"look at {self.storage_id}"
