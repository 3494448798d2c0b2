"""CollectionTag: a word that an operator gave a collection, for schedules to select by. Qdrant knows nothing of it."""

from __future__ import annotations

from django.db import models

from apps.clusters.models import Cluster


class CollectionTag(models.Model):
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="collection_tags")
    collection_name = models.CharField(max_length=255)
    tag = models.CharField(max_length=50)

    class Meta:
        ordering = ["cluster", "collection_name", "tag"]
        constraints = [
            models.UniqueConstraint(fields=["cluster", "collection_name", "tag"], name="one_tag_of_a_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.collection_name}: {self.tag}"
