"""A new collection that nobody backs up is told of after one look at its cluster, and once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.alerts.findings import look
from apps.alerts.models import Rule
from apps.clusters.models import Cluster
from apps.clusters.observations import observe_due
from apps.storage.models import StorageConfig
from tests.support import Collections

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_unprotected_collection_is_told_of_within_one_poll(
    cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    def told() -> list[str]:
        found, _, _ = look(timezone.now())
        return [finding.collection for finding in found if finding.rule == Rule.UNPROTECTED]

    now = timezone.now()
    observe_due(now=now)
    assert told() == []
    collections.create("films", 1, shards=1)

    assert observe_due(now=now + timedelta(minutes=10)) == 1

    assert told() == ["films"]
    assert observe_due(now=now + timedelta(minutes=20)) == 1
    assert told() == ["films"]
