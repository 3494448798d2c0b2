"""Where a node may be told to recover from: nothing reaches it that the policy refuses, in any way of writing it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.clusters.models import Cluster
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, error_of, result_of

RECOVERS = [f"{V1}/collections/c/snapshots/recover", f"{V1}/collections/c/shards/0/snapshots/recover"]

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.parametrize("path", RECOVERS)
@pytest.mark.parametrize("wait", ["true", "false"])
@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/", "HTTP://[::ffff:169.254.169.254]/x", "http://2852039166/x",
        "http://0251.0376.0251.0376/x", "http://metadata.google.internal/x", "http://0.0.0.0:6333/x",
        "http://leads-there.example/x", "http://ana:canary@127.0.0.1/x", "http://nowhere.invalid/x",
        "file:///etc/../etc/passwd", "file:///a/%2e%2e/b", "FILE://host/x", "file:///x?y",
        "s3://bucket/../x", "s3://bucket/a/%2e%2e/%2e%2e/x", "s3://bucket//x", "s3://bucket/%2e%2e%2fx", "s3://bucket/",
        "s3://bucket/a%5C..%5Cb", "s3://bucket/a%00b", "s3://other-bucket/x", "s3://folder/x",
    ],
)  # fmt: skip
def test_what_is_refused_never_reaches_the_node(
    api: APIClient, node: SandboxNode, monkeypatch: pytest.MonkeyPatch, path: str, wait: str, location: str,
    folder: Path,
) -> None:  # fmt: skip
    real = socket.getaddrinfo
    names = {"leads-there.example": "169.254.169.254"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: real(names.get(host, host), *args, **more))
    StorageConfig.objects.create(
        name="bucket", type="s3", s3_endpoint="http://127.0.0.1:9", s3_bucket="b", s3_prefix="pre", s3_region="r",
        s3_access_key="a", s3_secret_key="s",
    )  # fmt: skip
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))

    response = api.post(f"{path}?wait={wait}", {"location": location}, format="json")

    assert response.status_code == 422, response.content
    assert "location" in error_of(response)
    assert "canary" not in error_of(response)
    assert not [entry for entry in node.log() if "recover" in entry["path"]]


def test_lists_of_the_settings_count(api: APIClient, node: SandboxNode, settings: Any) -> None:
    settings.BACKUPMGR_OUTBOUND_ALLOW = ["127.0.0.1"]
    body = {"location": "http://203.0.113.7/x"}

    assert "BACKUPMGR_OUTBOUND_ALLOW" in error_of(api.post(RECOVERS[0], body, format="json"))
    assert not [entry for entry in node.log() if "recover" in entry["path"]]


def test_files_can_be_switched_off(api: APIClient, settings: Any) -> None:
    settings.BACKUPMGR_ALLOW_FILE_LOCATION = False

    response = api.post(RECOVERS[0], {"location": "file:///qdrant/snapshots/x"}, format="json")

    assert response.status_code == 422
    assert "BACKUPMGR_ALLOW_FILE_LOCATION" in error_of(response)


@pytest.mark.parametrize("version", ["1.17.0", "1.9.3", "dev"])
def test_a_node_that_would_read_any_file_is_not_asked_to(
    api: APIClient, cluster: Cluster, tmp_path: Path, version: str
) -> None:
    with SandboxNode(tmp_path / "older", version=version) as older:
        Cluster.objects.filter(pk=cluster.pk).update(url=older.url)
        response = api.post(RECOVERS[0], {"location": "file:///etc/passwd"}, format="json")

        assert response.status_code == 422
        assert "1.17.1" in error_of(response)
        assert not [entry for entry in older.log() if "recover" in entry["path"]]


def test_a_signature_that_the_client_wrote_is_not_repeated(api: APIClient, node: SandboxNode) -> None:
    location = f"{node.url}/nothing?X-Amz-Signature=canary&token=canary"
    body = {"status": {"error": f"Failed to download snapshot from {location}: 404"}, "time": 0}
    for status in (400, 404, 500, 403):
        node.faults.clear()
        node.faults.add(action="status", method="PUT", path=".*/recover", status=status, body=body)

        response = api.post(RECOVERS[0], {"location": location}, format="json")

        assert response.status_code >= 400
        assert "canary" not in error_of(response)


def test_redirects_of_a_node_are_not_followed(api: APIClient, node: SandboxNode) -> None:
    node.faults.add(action="status", method="GET", path="/collections", status=302, body={"status": "moved"})

    response = api.get(f"{V1}/collections")

    assert response.status_code == 502
    assert "redirect" in error_of(response)


def test_nodes_are_held_against_the_policy_as_well(api: APIClient, settings: Any) -> None:
    assert isinstance(result_of(api.get(f"{V1}/collections")), list | dict)
    settings.BACKUPMGR_OUTBOUND_DENY = ["127.0.0.0/8"]

    response = api.get(f"{V1}/collections")

    assert response.status_code == 422
    assert "BACKUPMGR_OUTBOUND_DENY" in error_of(response)
