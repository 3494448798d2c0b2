"""StorageConfig: a destination for backups, a folder or a bucket."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from apps.core.fields import EncryptedField, Secret
from apps.core.models import TimestampedModel
from apps.storage.observed import StorageObservation as StorageObservation  # Django finds models here
from apps.storage.validation import check_config


class StorageType(models.TextChoices):
    LOCAL = "local", "Folder"
    S3 = "s3", "S3 or compatible"


class AddressingStyle(models.TextChoices):
    AUTO = "auto", "automatic"
    PATH = "path", "path (https://host/bucket/key)"
    VIRTUAL = "virtual", "virtual host (https://bucket.host/key)"


class StorageConfigQuerySet(models.QuerySet["StorageConfig"]):
    def default(self) -> StorageConfig | None:
        """Return the default storage, None while there is none."""
        return self.filter(is_default=True).first()


class StorageConfig(TimestampedModel):
    """Where backups go: a folder of this host, or a bucket of S3 and what speaks S3."""

    name = models.CharField(max_length=100, unique=True)
    type = models.CharField(max_length=10, choices=StorageType)
    is_default = models.BooleanField("default", default=False, help_text="Used when a job names no storage")
    path = models.CharField(
        "folder", max_length=1000, blank=True, default="", help_text="Absolute path below one of the allowed roots"
    )
    s3_endpoint = models.CharField(
        "endpoint",
        max_length=500,
        blank=True,
        default="",
        help_text="For example https://s3.eu-central-1.amazonaws.com",
    )
    s3_bucket = models.CharField("bucket", max_length=100, blank=True, default="")
    s3_region = models.CharField("region", max_length=100, blank=True, default="")
    s3_access_key = models.CharField("access key", max_length=200, blank=True, default="")
    s3_secret_key: models.Field[Secret | str, Secret] = EncryptedField("secret key")
    s3_prefix = models.CharField(
        "prefix", max_length=300, blank=True, default="", help_text="Folder within the bucket, may be empty"
    )
    s3_addressing_style = models.CharField(
        "addressing", max_length=10, choices=AddressingStyle, default=AddressingStyle.AUTO
    )
    verify_tls = models.BooleanField("verify TLS", default=True)
    ca = models.TextField(
        "CA certificate",
        blank=True,
        default="",
        help_text="PEM; only when the endpoint's certificate is signed by an own CA",
    )

    max_jobs = models.PositiveSmallIntegerField(
        "jobs at once",
        default=4,
        validators=[MinValueValidator(1)],
        help_text="Schedules start no further backup while so many jobs use this storage",
    )

    objects = StorageConfigQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = "storage"
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_storage"),
            models.CheckConstraint(condition=Q(type__in=StorageType.values), name="storage_type_known"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check that the fields of the chosen type are all there and acceptable. Raises: ValidationError by field."""
        problems = check_config(self)
        if problems:
            raise ValidationError(problems)

    @transaction.atomic
    def save(self, *args: object, **kwargs: object) -> None:
        """Save; the first storage becomes the default one, and a new default takes over from the old one."""
        if not self.is_default and not StorageConfig.objects.exclude(pk=self.pk).filter(is_default=True).exists():
            self.is_default = True
        if self.is_default:
            StorageConfig.objects.exclude(pk=self.pk).filter(is_default=True).update(is_default=False)
        super().save(*args, **kwargs)  # type: ignore[arg-type]

    @property
    def location(self) -> str:
        """Where it is, in words without secrets: a path, or endpoint/bucket/prefix."""
        if self.type == StorageType.LOCAL:
            return self.path
        return "/".join(piece.strip("/") for piece in (self.s3_endpoint, self.s3_bucket, self.s3_prefix) if piece)

    @property
    def masked_access_key(self) -> str:
        """The access key with all but its last four characters hidden."""
        key = self.s3_access_key
        return f"{'*' * 8}{key[-4:]}" if len(key) > 8 else "*" * 8 if key else ""
