"""A POST that a client repeats (its network broke, it never saw the answer) does its work once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from apps.api.models import IdempotencyKey
from apps.core.errors import Conflict, InvalidRequest
from apps.jobs.models import Job

MAX_KEY_LENGTH = 200
#: How long a key finds its job again. A client that repeats a request does so within minutes.
KEPT = timedelta(days=7)


class UnusableKey(InvalidRequest):
    """An Idempotency-Key that is none."""


class KeyUsedOtherwise(Conflict):
    """The key came with another body before."""


def create_once(*, user: User, key: str, body: Any, now: datetime, create: Callable[[], Job]) -> Job:
    """Return the job that `user` created with this key, or else call `create` and remember its job.

    Of two requests at once, one creates; the other one is rolled back and gets the same job. Keys are forgotten after
    KEPT: each use takes the old ones away.
    Raises: UnusableKey, KeyUsedOtherwise; whatever `create` raises, and then nothing is remembered.
    """
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise UnusableKey(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} printable ASCII characters.")
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    IdempotencyKey.objects.filter(created_at__lt=now - KEPT).delete()
    known = _find(user, key, digest)
    if known is not None:
        return known
    try:
        with transaction.atomic():
            job = create()
            IdempotencyKey.objects.create(user=user, key=key, body_sha256=digest, job=job, created_at=now)
    except IntegrityError:
        known = _find(user, key, digest)
        if known is None:
            raise
        return known
    return job


def _find(user: User, key: str, digest: str) -> Job | None:
    found = IdempotencyKey.objects.select_related("job__cluster", "job__target_cluster").filter(user=user, key=key)
    row = found.first()
    if row is None:
        return None
    if row.body_sha256 != digest:
        raise KeyUsedOtherwise("This Idempotency-Key came with another body before: use a new key for a new job.")
    return row.job
