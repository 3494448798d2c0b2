"""Rows of what was seen at clusters (observations.py writes them)."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from apps.core.models import UuidModel


class ClusterObservation(models.Model):
    """The last check of one cluster: when it was tried, when it last answered, and what it said then."""

    cluster = models.OneToOneField(
        "clusters.Cluster", on_delete=models.CASCADE, primary_key=True, related_name="observation"
    )
    next_check_at = models.DateTimeField(db_index=True)
    tried_at = models.DateTimeField(null=True, blank=True)
    #: Null when it has never answered.
    seen_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    #: Why the last try failed; empty when it did not.
    problem = models.TextField(blank=True, default="")
    version = models.CharField(max_length=40, blank=True, default="")
    #: [{"peer_id", "url", "uri", "version", "role", "is_usable"}]
    nodes: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    #: [{"message", "is_error"}]: what is wrong or odd, as the registry tells it.
    warnings: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    #: `raft_info` as Qdrant gives it; empty for a standalone node.
    raft: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return f"check of {self.cluster_id}"


class ObservedCollection(UuidModel):
    """A collection that was seen on a cluster: present at the cluster's last contact unless `gone_at` is set."""

    cluster = models.ForeignKey("clusters.Cluster", on_delete=models.CASCADE, related_name="observed_collections")
    name = models.CharField(max_length=255)
    #: Qdrant's own estimate.
    points_count = models.BigIntegerField(null=True, blank=True)
    shard_count = models.PositiveIntegerField(null=True, blank=True)
    inactive_replicas = models.PositiveIntegerField(default=0)
    #: green, yellow, grey or red, as Qdrant reports.
    status = models.CharField(max_length=20, blank=True, default="")
    aliases: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    first_seen_at = models.DateTimeField()
    #: When the figures were asked for; null while they never were.
    asked_at = models.DateTimeField(null=True, blank=True)
    gone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "collection"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["cluster", "name"], name="one_row_per_collection")]
        indexes = [models.Index(fields=["name", "cluster"], condition=Q(gone_at=None), name="collection_present")]

    def __str__(self) -> str:
        return self.name
