"""Clusters of many nodes in the admin: addresses, keys, what the test says, known troubles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.clusters.models import Cluster
from apps.sandbox import SandboxNode


def told(response: Any) -> str:
    """The messages of a page that was answered with a redirect, or the page itself."""
    return " ".join(str(message) for message in response.wsgi_request._messages)


def form(**more: Any) -> dict[str, Any]:
    return {"name": "berlin", "url": "http://127.0.0.1:9", "verify_tls": "on", "ca": "", "api_key": ""} | more


def test_addresses_are_entered_one_a_line(root: Client, cluster: Cluster) -> None:
    address = reverse("admin:clusters_cluster_change", args=[cluster.pk])
    Cluster.objects.filter(pk=cluster.pk).update(nodes={"7": "http://b:6333", "8": "http://gone:6333"})

    root.post(address, form(url="http://a:6333/\r\n\r\n  http://b:6333  \r\nhttp://c:6333\r\nhttp://a:6333\r\n"))

    cluster.refresh_from_db()
    assert list(cluster.addresses) == ["http://a:6333", "http://b:6333", "http://c:6333"]
    assert cluster.nodes == {"7": "http://b:6333"}
    html = root.get(address).content.decode()
    assert "http://a:6333\nhttp://b:6333\nhttp://c:6333</textarea>" in html
    assert "http://a:6333 and 2 more addresses" in root.get(
        reverse("admin:clusters_cluster_changelist")
    ).content.decode().replace("\n", "")


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ("http://a:6333\nftp://b", "ftp://b: Write the node"),
        ("http://a:6333\nhttp://user:pw@b", "Leave credentials out"),
        ("\n \n", "This field is required"),
        ("http://a:6333\n" + "\n".join(f"http://n{i}:6333" for i in range(101)), "at most 100 addresses"),
    ],
)
def test_bad_line_is_named(root: Client, urls: str, words: str) -> None:
    html = root.post(reverse("admin:clusters_cluster_add"), form(name="new", url=urls)).content.decode()

    assert words in html
    assert not Cluster.objects.filter(name="new").exists()


def test_nodes_that_the_api_has_registered_do_not_break_the_form(root: Client, cluster: Cluster, settings: Any) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(nodes={"7": "http://10.0.0.7:6333"})
    settings.BACKUPMGR_OUTBOUND_DENY = ["10.0.0.7"]

    page = root.post(
        reverse("admin:clusters_cluster_change", args=[cluster.pk]),
        form(url="http://127.0.0.1:9\nhttp://10.0.0.7:6333"),
    )

    assert page.status_code == 200
    assert "http://10.0.0.7:6333: " in page.content.decode()


def test_key_for_restores_is_kept_replaced_and_cleared(root: Client, cluster: Cluster) -> None:
    address = reverse("admin:clusters_cluster_change", args=[cluster.pk])
    assert "Not set: restores use the API key." in root.get(address).content.decode()

    root.post(address, form(api_key="for-backups", restore_api_key="for-restores"))
    root.post(address, form())
    cluster.refresh_from_db()
    assert (cluster.api_key.reveal(), cluster.restore_api_key.reveal()) == ("for-backups", "for-restores")
    html = root.get(address).content.decode()
    assert "for-backups" not in html
    assert "for-restores" not in html.replace('id="id_restore', "")

    root.post(address, form(clear_restore_api_key="on"))
    cluster.refresh_from_db()
    assert (cluster.api_key.reveal(), cluster.restore_api_key.reveal()) == ("for-backups", "")


def test_viewer_reads_addresses_and_no_key(as_: Callable[[str], Client], cluster: Cluster) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(other_urls=["http://b:6333"])
    cluster.refresh_from_db()
    cluster.restore_api_key = "for-restores"
    cluster.save()

    html = as_("viewer").get(reverse("admin:clusters_cluster_change", args=[cluster.pk])).content.decode()

    assert "http://b:6333" in html
    assert "not set" in html
    assert "for-restores" not in html


def test_nodes_page_of_a_standalone_node_shows_its_known_troubles(root: Client, cluster: Cluster, node: Any) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)

    html = root.get(reverse("admin:clusters_cluster_nodes", args=[cluster.pk])).content.decode()

    assert "standalone" in html
    assert "Known troubles of Qdrant 1.18.3" in html
    assert "https://github.com/qdrant/qdrant/issues/10135" in html
    assert "Add the suggested addresses" not in html


def test_nodes_page_says_what_is_wrong(root: Client, cluster: Cluster, node: Any, tmp_path: Path) -> None:
    with SandboxNode(tmp_path / "other") as other:
        Cluster.objects.filter(pk=cluster.pk).update(url=node.url, other_urls=[other.url, "http://127.0.0.1:9"])
        html = root.get(reverse("admin:clusters_cluster_nodes", args=[cluster.pk])).content.decode()
        test = root.post(reverse("admin:clusters_cluster_test", args=[cluster.pk]))

    assert "register it as a cluster of its own" in html
    assert "http://127.0.0.1:9 cannot be reached" in html
    assert "register it as a cluster of its own" in told(test)


def test_nothing_to_adopt_is_said(root: Client, cluster: Cluster, node: Any) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)

    assert "nothing to add" in told(root.post(reverse("admin:clusters_cluster_adopt", args=[cluster.pk])))


def test_nothing_is_adopted_on_get(root: Client, cluster: Cluster) -> None:
    assert root.get(reverse("admin:clusters_cluster_adopt", args=[cluster.pk])).status_code == 405
