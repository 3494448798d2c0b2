"""Cluster: a Qdrant deployment that is backed up and restored into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q

from apps.clusters.qdrant import Endpoint, check_api_key, check_node_url
from apps.core.crypto import UndecryptableSecret
from apps.core.fields import EncryptedField
from apps.core.models import TimestampedModel
from apps.core.outbound import AddressRefused, current_guard


class ClusterQuerySet(models.QuerySet["Cluster"]):
    def default(self) -> Cluster | None:
        """Return the default cluster, None while there is none."""
        return self.filter(is_default=True).first()

    def named(self, reference: str) -> Cluster | None:
        """Return the cluster with this id or this name, None when there is none."""
        try:
            return self.filter(pk=reference).first() or self.filter(name=reference).first()
        except ValidationError:  # no UUID
            return self.filter(name=reference).first()


class Cluster(TimestampedModel):
    """Where backups come from: one Qdrant deployment, one or many nodes."""

    name = models.CharField(max_length=100, unique=True)
    url = models.CharField("URL", max_length=500, help_text="REST address of a node, for example http://qdrant:6333")
    nodes = models.JSONField(
        default=dict, blank=True, help_text="peer id → REST address of that node, for clusters of many nodes"
    )
    api_key = EncryptedField("API key", help_text="Sent as the api-key header; leave empty for a node without keys")
    verify_tls = models.BooleanField("verify TLS", default=True)
    ca = models.TextField(
        "CA certificate",
        blank=True,
        default="",
        help_text="PEM; only when the node's certificate is signed by an own CA",
    )
    is_default = models.BooleanField("default", default=False, help_text="Used when a request names no cluster")

    objects = ClusterQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_cluster")
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check address, key and CA. Raises: ValidationError by field."""
        checks: tuple[tuple[str, Callable[[], object]], ...] = (
            ("url", lambda: check_node_url(self.url)),
            ("url", lambda: current_guard(self.url)),
            ("api_key", lambda: check_api_key(self.api_key.reveal())),
            ("ca", lambda: Endpoint(url=self.url, ca=self.ca).ssl_context()),
        )
        problems: dict[str, str] = {}
        for field, check in checks:
            try:
                check()
            except (ValueError, UndecryptableSecret, AddressRefused) as error:
                problems.setdefault(field, str(error))
        if problems:
            raise ValidationError(problems)

    @transaction.atomic
    def save(self, *args: object, **kwargs: object) -> None:
        """Save; the first cluster becomes the default one, and a new default takes over from the old one."""
        if not self.is_default and not Cluster.objects.exclude(pk=self.pk).filter(is_default=True).exists():
            self.is_default = True
        if self.is_default:
            Cluster.objects.exclude(pk=self.pk).filter(is_default=True).update(is_default=False)
        super().save(*args, **kwargs)  # type: ignore[arg-type]

    @property
    def endpoint(self) -> Endpoint:
        """How to reach the (only, or first) node. Raises: crypto.UndecryptableSecret; outbound.AddressRefused."""
        return Endpoint(
            url=self.url.rstrip("/"),
            api_key=self.api_key.reveal(),
            verify_tls=self.verify_tls,
            ca=self.ca,
            timeout_seconds=settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS,
            stall_seconds=settings.BACKUPMGR_STALL_SECONDS,
            snapshot_timeout_seconds=settings.BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS,
            guard=current_guard(self.url),
        )

    def quick_endpoint(self, timeout_seconds: float) -> Endpoint:
        """The endpoint for calls that somebody waits for. Raises: as `endpoint`."""
        return replace(self.endpoint, timeout_seconds=timeout_seconds)
