"""Clusters over the API."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.clusters.models import Cluster
from tests.api.conftest import V1, error_of, result_of

BODY: dict[str, Any] = {"name": "main", "url": "http://qdrant:6333", "api_key": "canary-key"}


def test_cluster_is_created_shown_changed_and_removed(api: APIClient) -> None:
    response = api.post(f"{V1}/clusters", BODY | {"nodes": {"123": "http://b:6333"}}, format="json")
    made = result_of(response)
    other = result_of(api.post(f"{V1}/clusters", {"name": "other", "url": "https://q"}, format="json"))

    assert (made["is_default"], made["has_api_key"], made["nodes"]) == (True, True, {"123": "http://b:6333"})
    assert result_of(api.get(f"{V1}/clusters/{made['id']}")) == made
    assert [c["name"] for c in result_of(api.get(f"{V1}/clusters"))] == ["main", "other"]
    assert "canary-key" not in response.content.decode()
    assert "canary-key" not in api.get(f"{V1}/clusters").content.decode()
    changed = result_of(api.put(f"{V1}/clusters/{made['id']}", {"url": "http://new:6333"}, format="json"))
    assert (changed["url"], changed["has_api_key"]) == ("http://new:6333", True)
    assert Cluster.objects.get(name="main").api_key.reveal() == "canary-key"
    cleared = result_of(api.put(f"{V1}/clusters/{made['id']}", {"api_key": ""}, format="json"))
    assert cleared["has_api_key"] is False
    assert api.put(f"{V1}/clusters/{made['id']}", {"is_default": False}, format="json").status_code == 400
    assert api.delete(f"{V1}/clusters/{made['id']}").status_code == 400  # the default one beside another
    assert result_of(api.delete(f"{V1}/clusters/{other['id']}")) is True
    assert result_of(api.delete(f"{V1}/clusters/{made['id']}")) is True


def test_same_name_twice_is_409(api: APIClient) -> None:
    result_of(api.post(f"{V1}/clusters", BODY, format="json"))

    response = api.post(f"{V1}/clusters", BODY, format="json")

    assert response.status_code == 409
    assert "main" in error_of(response)


def test_cluster_with_jobs_stays(api: APIClient, make_job: Any, down: Cluster) -> None:
    make_job()

    response = api.delete(f"{V1}/clusters/{down.pk}")

    assert response.status_code == 409
    assert error_of(response)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "qdrant:6333"}, {"url": "ftp://q"}, {"url": "http://user:pw@q"}, {"url": "http://q?x"}, {"url": ""},
        {"url": "http://q:99999"}, {"name": " x"}, {"name": "a\nb"}, {"name": ""}, {"ca": "no pem"},
        {"nodes": {"x": "http://q"}}, {"nodes": {"1": "q"}}, {"nodes": {"1": 2}}, {"nodes": []},
        {"urls": []}, {"urls": "http://q"}, {"urls": ["q"]}, {"urls": ["http://q", 3]}, {"urls": [None]},
        {"urls": [f"http://q{i}" for i in range(101)]}, {"restore_api_key": "line\nbreak"}, {"restore_api_key": 1},
    ],
)  # fmt: skip
def test_nonsense_is_400(api: APIClient, change: dict[str, Any]) -> None:
    for address in ("clusters", "clusters/test"):
        response = api.post(f"{V1}/{address}", BODY | change, format="json")
        assert response.status_code == 400, response.content
        assert next(iter(change)) in error_of(response)


def test_trying_a_cluster_saves_nothing(api: APIClient, node: Any) -> None:
    good = result_of(api.post(f"{V1}/clusters/test", {"url": node.url}, format="json"))
    bad = result_of(api.post(f"{V1}/clusters/test", {"url": "http://127.0.0.1:9"}, format="json"))

    assert good["success"] is True
    assert good["version"]
    assert (bad["success"], bad["version"]) == (False, None)
    assert "cannot be reached" in bad["message"]
    assert not Cluster.objects.exists()


@pytest.mark.parametrize("id", ["1", "x", "6f1c2f6e-0000-4000-8000-000000000000"])
def test_unknown_cluster_is_404(api: APIClient, id: str) -> None:  # noqa: A002
    for response in (
        api.get(f"{V1}/clusters/{id}"),
        api.put(f"{V1}/clusters/{id}", {}, format="json"),
        api.delete(f"{V1}/clusters/{id}"),
    ):
        assert response.status_code == 404
        assert error_of(response)


def test_list_of_addresses_is_kept_and_replaced(api: APIClient) -> None:
    made = result_of(
        api.post(f"{V1}/clusters", {"name": "three", "urls": ["http://a:6333/", "http://b:6333"]}, format="json")
    )

    assert (made["url"], made["urls"]) == ("http://a:6333", ["http://a:6333", "http://b:6333"])
    address = f"{V1}/clusters/{made['id']}"
    named = result_of(api.put(address, {"nodes": {"7": "http://b:6333", "8": "http://c:6333"}}, format="json"))
    assert named["urls"] == ["http://a:6333", "http://b:6333", "http://c:6333"]
    changed = result_of(api.put(address, {"urls": ["http://b:6333", "http://d:6333"]}, format="json"))
    assert changed["urls"] == ["http://b:6333", "http://d:6333"]
    assert changed["nodes"] == {"7": "http://b:6333"}  # that of an address which is still in the list
    first = result_of(api.put(address, {"url": "http://d:6333", "urls": changed["urls"]}, format="json"))
    assert first["urls"] == ["http://d:6333", "http://b:6333"]


def test_cluster_without_any_address_is_400(api: APIClient) -> None:
    for address, body in (("clusters", {"name": "main"}), ("clusters/test", {})):
        response = api.post(f"{V1}/{address}", body, format="json")
        assert response.status_code == 400
        assert "url" in error_of(response)


def test_forbidden_address_among_many_is_named(api: APIClient, settings: Any) -> None:
    settings.BACKUPMGR_OUTBOUND_DENY = ["10.0.0.3"]

    response = api.post(f"{V1}/clusters", {"name": "x", "urls": ["http://10.0.0.2", "http://10.0.0.3"]}, format="json")

    assert response.status_code == 400
    assert "http://10.0.0.3: " in error_of(response)


def test_key_for_restores_is_written_and_never_shown(api: APIClient) -> None:
    response = api.post(f"{V1}/clusters", BODY | {"restore_api_key": "canary-restore"}, format="json")
    made = result_of(response)

    assert (made["has_api_key"], made["has_restore_api_key"]) == (True, True)
    assert "canary-restore" not in response.content.decode()
    assert Cluster.objects.get().restore_api_key.reveal() == "canary-restore"
    cleared = result_of(api.put(f"{V1}/clusters/{made['id']}", {"restore_api_key": ""}, format="json"))
    assert (cleared["has_api_key"], cleared["has_restore_api_key"]) == (True, False)


def test_test_tells_node_keys_and_known_troubles(api: APIClient, node: Any) -> None:
    found = result_of(api.post(f"{V1}/clusters/test", {"url": node.url}, format="json"))

    assert (found["distributed"], found["problems"]) == (False, [])
    assert [(each["url"], each["is_usable"]) for each in found["nodes"]] == [(node.url, True)]
    assert [(key["purpose"], key["verdict"]) for key in found["keys"]] == [("backup", "fine"), ("restore", "fine")]
    ids = [advisory["id"] for advisory in found["advisories"]]
    assert "custom-sharding-recovers-to-nothing" in ids
    assert node.log()
    assert not [entry for entry in node.log() if entry["status"] >= 500]


def test_test_of_a_registered_cluster_uses_its_keys(api: APIClient, tmp_path: Any) -> None:
    from apps.sandbox import SandboxNode

    with SandboxNode(tmp_path / "locked", api_key="right") as locked:
        cluster = Cluster.objects.create(name="main", url=locked.url, api_key="right")
        good = result_of(api.post(f"{V1}/clusters/{cluster.pk}/test"))
        Cluster.objects.filter(pk=cluster.pk).update(api_key="wrong")
        bad = result_of(api.post(f"{V1}/clusters/{cluster.pk}/test"))

    assert good["success"] is True
    assert bad["success"] is False
    assert [problem["kind"] for problem in bad["problems"]] == ["key_wrong"]
    assert bad["keys"] == []


@pytest.mark.parametrize(
    ("keys", "success", "kinds"),
    [
        ({"api_key": "look"}, False, ["key_read_only", "key_read_only"]),
        ({"api_key": "full"}, True, []),
        ({"api_key": "look", "restore_api_key": "full"}, False, ["key_read_only"]),
        ({"api_key": "full", "restore_api_key": "look"}, False, ["key_read_only"]),
        ({"api_key": "full", "restore_api_key": "no"}, False, ["key_wrong"]),
        ({}, False, ["key_missing"]),
    ],
)
def test_read_only_keys_are_recognised_and_explained(
    api: APIClient, tmp_path: Any, keys: dict[str, str], success: bool, kinds: list[str]
) -> None:
    from apps.sandbox import SandboxNode

    with SandboxNode(tmp_path / "locked", api_key="full", read_only_api_key="look") as locked:
        found = result_of(api.post(f"{V1}/clusters/test", {"url": locked.url, **keys}, format="json"))

    assert found["success"] is success, found
    assert [problem["kind"] for problem in found["problems"]] == kinds
    if "key_read_only" in kinds and keys["api_key"] == "look":
        assert "can list and download snapshots but not make them" in found["message"]
