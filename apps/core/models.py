"""Abstract bases shared by all rooms, and one table: figures that only grow."""

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


class Tally(models.Model):
    """A figure that only grows, kept when the rows it counts are deleted (apps/core/tally.py)."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=40)
    #: What it is of: an id, or empty.
    about = models.CharField(max_length=64, blank=True, default="")
    #: What came of it, or empty.
    result = models.CharField(max_length=20, blank=True, default="")
    value = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "tallies"
        constraints = [models.UniqueConstraint(fields=["name", "about", "result"], name="one_tally_of_a_kind")]

    def __str__(self) -> str:
        return f"{self.name} {self.about} {self.result}: {self.value}"
