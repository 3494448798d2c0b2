"""Cluster: a Qdrant deployment that is backed up and restored into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from apps.clusters.observed import ClusterObservation as ClusterObservation  # Django finds models here
from apps.clusters.observed import ObservedCollection as ObservedCollection
from apps.clusters.qdrant import Endpoint, check_api_key, check_node_url
from apps.core.crypto import UndecryptableSecret
from apps.core.fields import EncryptedField
from apps.core.models import TimestampedModel
from apps.core.outbound import AddressRefused, current_guard

#: Every address is asked before each job; more than this is a mistake.
MAX_NODES = 100


class Purpose(StrEnum):
    """What a connection is for: the two may have keys of their own."""

    BACKUP = "backup"
    RESTORE = "restore"


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
    other_urls: models.JSONField[Any, Any] = models.JSONField(
        "other URLs", default=list, blank=True, help_text="REST addresses of the other nodes, of whichever peer"
    )
    nodes = models.JSONField(
        default=dict, blank=True, help_text="peer id → REST address of that node, for clusters of many nodes"
    )
    #: Address → the peer that answered there when it was last asked: a node that is down is then known by its id.
    seen_peers: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True, editable=False)
    api_key = EncryptedField("API key", help_text="Sent as the api-key header; leave empty for a node without keys")
    restore_api_key = EncryptedField(
        "API key for restores", help_text="Sent by restores instead of the API key; leave empty to use that for all"
    )
    verify_tls = models.BooleanField("verify TLS", default=True)
    ca = models.TextField(
        "CA certificate",
        blank=True,
        default="",
        help_text="PEM; only when the node's certificate is signed by an own CA",
    )
    max_backup_age_hours = models.PositiveIntegerField(
        "maximum age of backups",
        default=26,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 366)],
        help_text="Hours. A collection whose newest backup is older is overdue, unless a schedule says otherwise.",
    )
    is_default = models.BooleanField("default", default=False, help_text="Used when a request names no cluster")
    max_jobs = models.PositiveSmallIntegerField(
        "jobs at once",
        default=2,
        validators=[MinValueValidator(1)],
        help_text="Schedules start no further backup while so many jobs run on this cluster",
    )
    max_jobs_per_node = models.PositiveSmallIntegerField(
        "jobs at once per node",
        default=1,
        validators=[MinValueValidator(1)],
        help_text="The same, for each of its nodes",
    )

    objects = ClusterQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_cluster")
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check addresses, keys and CA. Raises: ValidationError by field."""
        checks: tuple[tuple[str, Callable[[], object]], ...] = (
            ("url", lambda: _check_address(self.url)),
            ("url", lambda: _check_addresses(self.other_urls)),
            ("url", lambda: _check_addresses(self.nodes.values())),
            ("api_key", lambda: check_api_key(self.api_key.reveal())),
            ("api_key", lambda: check_api_key(self.restore_api_key.reveal())),
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
    def addresses(self) -> dict[str, int | None]:
        """Every REST address, the first one first → the peer registered or last seen there, None for neither."""
        registered = {url.rstrip("/"): int(peer) for peer, url in self.nodes.items()}
        urls = dict.fromkeys(url.rstrip("/") for url in [self.url, *self.other_urls, *registered])
        return {url: registered.get(url, self.seen_peers.get(url)) for url in urls}

    @property
    def scheduled_jobs_at_once(self) -> int:
        """How many jobs may run on this cluster for a schedule to start another one."""
        return max(1, min(self.max_jobs, self.max_jobs_per_node * len(self.addresses)))

    @property
    def endpoint(self) -> Endpoint:
        """How to reach the (only, or first) node with the key of backups.

        Raises: crypto.UndecryptableSecret; outbound.AddressRefused.
        """
        return self.endpoint_for(Purpose.BACKUP)

    def endpoint_for(self, purpose: Purpose, url: str | None = None) -> Endpoint:
        """How to reach the node at `url` (None: the first) for backups, or for restores. Raises: as `endpoint`."""
        address = (url or self.url).rstrip("/")
        key = self.restore_api_key if purpose == Purpose.RESTORE and self.restore_api_key else self.api_key
        return Endpoint(
            url=address,
            api_key=key.reveal(),
            verify_tls=self.verify_tls,
            ca=self.ca,
            timeout_seconds=settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS,
            stall_seconds=settings.BACKUPMGR_STALL_SECONDS,
            outage_seconds=settings.BACKUPMGR_OUTAGE_SECONDS,
            snapshot_timeout_seconds=settings.BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS,
            guard=current_guard(address),
        )

    def quick_endpoint(
        self, timeout_seconds: float, purpose: Purpose = Purpose.BACKUP, url: str | None = None
    ) -> Endpoint:
        """As endpoint_for, for calls that somebody waits for. Raises: as `endpoint`."""
        return replace(self.endpoint_for(purpose, url), timeout_seconds=timeout_seconds, is_quick=True)


def _check_addresses(urls: Iterable[str]) -> None:
    """Check a list of addresses. Raises: ValueError, AddressRefused; the sentence names the address."""
    found = list(urls)
    if len(found) > MAX_NODES:
        raise ValueError(f"A cluster has at most {MAX_NODES} addresses here.")
    for url in found:
        try:
            _check_address(url)
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from error
        except AddressRefused as error:
            raise AddressRefused(f"{url}: {error}") from error


def _check_address(url: str) -> None:
    check_node_url(url)
    current_guard(url)
