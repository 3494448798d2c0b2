"""MaximumAge: how old the newest good backup may be, of one collection or of all that carry a tag."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from apps.clusters.models import Cluster

MOST_HOURS = 24 * 366


class MaximumAge(models.Model):
    """Counts whatever schedules do: paused, deleted, or rarer. The cluster's own age is for all the others."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="maximum_ages")
    #: Either a collection or a tag; the other one is empty.
    collection_name = models.CharField(max_length=255, blank=True, default="")
    tag = models.CharField(max_length=50, blank=True, default="")
    hours = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MOST_HOURS)])

    class Meta:
        ordering = ["cluster", "collection_name", "tag"]
        constraints = [
            models.UniqueConstraint(fields=["cluster", "collection_name", "tag"], name="one_maximum_age"),
            models.CheckConstraint(
                condition=Q(collection_name="") & ~Q(tag="") | Q(tag="") & ~Q(collection_name=""),
                name="maximum_age_of_collection_or_tag",
            ),
            models.CheckConstraint(condition=Q(hours__gte=1, hours__lte=MOST_HOURS), name="maximum_age_hours"),
        ]

    def __str__(self) -> str:
        return f"{self.collection_name or self.tag}: {self.hours} h"
