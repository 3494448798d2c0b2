"""Fixtures that more than one room's tests use: a sandbox node, rows for it and for a folder, a real worker."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import REPOSITORY, Collections, RunJob, WorkerProcess

if TYPE_CHECKING:
    from apps.clusters.models import Cluster
    from apps.jobs.models import Job
    from apps.sandbox import SandboxCluster, SandboxNode
    from apps.storage.models import StorageConfig


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    tmp_path_factory: pytest.TempPathFactory, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """Keep the test database in a file of this run: worker processes and threads of the tests open it too."""
    from django.db import connection

    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(autouse=True)
def no_automatic_retries(settings: Any) -> None:
    """A job that fails has failed, and soon: tests of retries and of outages switch them on."""
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = []
    settings.BACKUPMGR_OUTAGE_SECONDS = 0


@pytest.fixture(autouse=True)
def _no_verdict_of_another_test() -> None:
    """Pages remember the verdict and the charts for some seconds; a test must not see another's."""
    import sys

    for name, forget in (("facts", "forget_verdict"), ("history", "forget_days")):
        module = sys.modules.get(f"apps.protection.{name}")
        if module is not None:
            getattr(module, forget)()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SandboxNode]:
    """An empty Qdrant-compatible node."""
    from apps.sandbox import SandboxNode

    with SandboxNode(tmp_path / "node") as started:
        yield started


@pytest.fixture
def sandbox_cluster(tmp_path: Path) -> Iterator[SandboxCluster]:
    """Three empty Qdrant-compatible nodes that are one cluster."""
    from apps.sandbox import SandboxCluster

    with SandboxCluster(tmp_path / "nodes") as started:
        yield started


@pytest.fixture
def cluster(db: None, node: SandboxNode) -> Cluster:
    from apps.clusters.models import Cluster

    return Cluster.objects.create(name="main", url=node.url)


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    """An empty folder that storages may use."""
    path = tmp_path / "storage"
    path.mkdir()
    settings.BACKUPMGR_LOCAL_ROOTS = [str(path)]
    return path


@pytest.fixture
def storage(db: None, folder: Path) -> StorageConfig:
    from apps.storage.models import StorageConfig

    return StorageConfig.objects.create(name="folder", type="local", path=str(folder))


@pytest.fixture
def collections(node: SandboxNode) -> Collections:
    return Collections(node.url)


@pytest.fixture
def start_worker(tmp_path: Path, transactional_db: None) -> Iterator[Callable[..., WorkerProcess]]:
    """Start real workers; whatever is left of them is killed at the end of the test."""
    started: list[WorkerProcess] = []

    def start(**environment: str) -> WorkerProcess:
        worker = WorkerProcess(tmp_path / f"worker-{len(started)}.log", **environment)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        for pid in worker.family():
            os.kill(pid, signal.SIGKILL)
        worker.process.wait(10)


@pytest.fixture
def run(transactional_db: None) -> RunJob:
    """Create a job from the fields of a JobRequest, run it to its end, and return it as the database has it."""

    from django.utils import timezone

    from apps.jobs.models import Job
    from apps.jobs.runner import run_job
    from apps.jobs.services import JobRequest, create_job

    def run_to_the_end(type: str, collection_name: str, **fields: Any) -> Job:  # noqa: A002 - the contract's name
        request = JobRequest(type=type, collection_name=collection_name, **fields)
        job = create_job(request=request, now=timezone.now())
        run_job(str(job.pk))
        return Job.objects.get(pk=job.pk)

    return run_to_the_end


def _load_s3server() -> Any:
    """Load scripts/s3server.py, which is a program and in no package."""
    path = REPOSITORY / "scripts" / "s3server.py"
    spec = importlib.util.spec_from_file_location("s3server", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A running S3 server: .endpoint, .access_key, .secret_key, .bucket, .region."""
    module = _load_s3server()
    try:
        server = module.S3Server()
        server.start()
    except module.S3ServerMissing as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def s3_config(s3_server: Any) -> StorageConfig:
    """A storage in the server's bucket, with a prefix of its own; not saved."""
    from apps.storage.models import StorageConfig

    return StorageConfig(
        name="bucket",
        type="s3",
        s3_endpoint=s3_server.endpoint,
        s3_bucket=s3_server.bucket,
        s3_region=s3_server.region,
        s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key,
        s3_prefix=f"tests/{secrets.token_hex(6)}",
    )
