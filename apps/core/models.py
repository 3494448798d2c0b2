"""Abstract bases shared by all rooms."""

from __future__ import annotations

import uuid

from django.db import models


class UuidModel(models.Model):
    """A row with a UUID as its key: ids are public, and integers would tell how many there are."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    class Meta:
        abstract = True


class TimestampedModel(UuidModel):
    """A row that knows when it was made and last changed."""

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
