"""Rows and signed-in people for the tests of the admin. No worker runs: what is queued stays queued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.storage.models import StorageConfig
from tests.admin import world


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def cluster(db: None) -> Cluster:
    """A cluster that does not answer."""
    return Cluster.objects.create(name="berlin", url=world.DEAD_URL)


@pytest.fixture
def storage(db: None, folder: Path) -> StorageConfig:
    return StorageConfig.objects.create(name="vault", type="local", path=str(folder))


@pytest.fixture
def backup(cluster: Cluster, storage: StorageConfig) -> Backup:
    return world.make_backup(cluster, storage)


@pytest.fixture
def as_(db: None) -> Callable[[str], Client]:
    """Return a client signed in as a member of the group; 'root' is a superuser, '' nobody."""

    def sign_in(group: str) -> Client:
        client = Client()
        if group:
            client.force_login(world.person(superuser=True) if group == "root" else world.person(group))
        return client

    return sign_in


@pytest.fixture
def root(as_: Callable[[str], Client]) -> Client:
    return as_("root")
