"""ApiToken: a key with which a program signs in as a person. IdempotencyKey: a request that came before.

FailedAttempts: how often signing in went wrong lately.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.core.models import UuidModel
from apps.core.permissions import SCOPE_CHOICES, Scope
from apps.jobs.models import Job


class ApiToken(UuidModel):
    """A key that acts for its owner, up to its scope. The secret is shown once and kept as a hash only."""

    name = models.CharField(max_length=100, help_text="What uses it, for example nightly-backup")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="api_tokens",
        verbose_name="owner",
        help_text="The token can never do more than this person",
    )
    #: Beginning of the secret, to tell tokens apart and to find the row.
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    #: SHA-256 (hex) of the whole secret; 256 random bits need no slow hash.
    secret_sha256 = models.CharField(max_length=64, editable=False)
    scope = models.CharField(max_length=12, choices=SCOPE_CHOICES)
    created_at = models.DateTimeField(editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Leave empty for a token that does not expire")
    #: Written at most once a minute.
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API token"
        constraints = [
            models.CheckConstraint(
                condition=Q(scope__in=[label for label, _ in SCOPE_CHOICES]), name="token_scope_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def rung(self) -> Scope:
        """The scope as a value that can be compared."""
        return Scope[self.scope.upper()]

    def is_usable(self, now: datetime) -> bool:
        """Tell whether the token still opens anything at `now` (neither revoked nor expired)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class IdempotencyKey(models.Model):
    """What a client called its request to create a job, so that a repetition finds the job of the first one."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    #: SHA-256 (hex) of the canonical JSON body: the same key with another body is a mistake.
    body_sha256 = models.CharField(max_length=64)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="one_job_per_idempotency_key")]

    def __str__(self) -> str:
        return self.key


class FailedAttempts(models.Model):
    """How often somebody failed to sign in, from one address; shared by all web processes (throttle.py)."""

    #: SHA-256 (hex) of who it is, salted: neither the address nor the name can be read here.
    who = models.CharField(max_length=64, primary_key=True)
    count = models.PositiveIntegerField()
    #: When all of it is forgotten.
    until = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.who[:12]
