"""KeptCollection: what a restore replaced by switching aliases, and left where it was until somebody removes it."""

from __future__ import annotations

from typing import Any

from django.db import models

from apps.clusters.models import Cluster
from apps.core.models import UuidModel


class KeptCollection(UuidModel):
    """A collection that clients came to through aliases, until a restore beside it took these over.

    Written before the aliases are switched, so that a worker that dies in between leaves word of both collections.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="kept_collections")
    collection_name = models.CharField(max_length=255)
    #: The collection that was restored, to which the aliases lead now.
    replaced_by = models.CharField(max_length=255)
    aliases: models.JSONField[Any, Any] = models.JSONField(default=list)
    #: How many points it held when the aliases were switched: with another count somebody has used it since. Null when
    #: it could not be counted.
    points_count = models.BigIntegerField(null=True, blank=True)
    #: The restore that did it; null once somebody has switched back.
    job_id = models.UUIDField(null=True, blank=True, db_index=True)
    #: What that restore had proved by then (a Proof): an attempt that takes over after a kill needs no second restore.
    proof: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()
    #: Null while nobody knows whether the switch came through.
    switched_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "collection_name"], name="collection_kept_once")]
        indexes = [models.Index(fields=["-created_at", "-id"], name="kept_collection_newest")]

    def __str__(self) -> str:
        return f"{self.collection_name} on {self.cluster.name}"
