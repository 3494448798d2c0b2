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
