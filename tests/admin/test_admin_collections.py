"""The pages of collections and clusters: live data where it can be had, what was last known where it cannot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.clusters.observations import observe_cluster
from apps.jobs.models import Job
from apps.jobs.operations import NodeOperation
from apps.protection.facts import forget_verdict
from apps.storage.models import StorageConfig
from tests.admin.test_admin_actions import hidden, told
from tests.admin.world import make_backup, make_job

LIST = "/admin/clusters/observedcollection/"


def text(response: Any) -> str:
    return response.content.decode()


def of(cluster: Cluster, name: str = "products", **more: str) -> str:
    return f"{reverse('admin:clusters_collection')}?{urlencode({'cluster': str(cluster.pk), 'name': name, **more})}"


def snapshot(what: str, cluster: Cluster, **more: str) -> str:
    address = reverse(f"admin:clusters_collection_snapshot_{what}")
    return f"{address}?{urlencode({'cluster': str(cluster.pk), 'name': 'products', **more})}"


@pytest.fixture
def live(cluster: Cluster, node: Any, collections: Any) -> Cluster:
    """The cluster, answering, with a collection `products`."""
    collections.create("products", 30)
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)
    cluster.refresh_from_db()
    observe_cluster(cluster, now=timezone.now())
    return cluster


# --- one collection ----------------------------------------------------------------------------------------
def test_page_shows_the_collection_as_it_is_now_and_what_is_held_of_it(
    root: Client, live: Cluster, storage: StorageConfig, node: Any
) -> None:
    backup = make_backup(live, storage)
    job = make_job(live, storage, status="failed", error="The disk is full.")

    html = text(root.get(of(live)))

    assert re.search(r"<h1[^>]*>products</h1>", html)
    assert "8 dimensions, Cosine" in html
    assert '<th scope="row">city</th><td>keyword</td>' in html
    assert html.count(node.url) >= 2, "each shard names its node"
    assert "&quot;shard_number&quot;: 2" in html
    assert "None. Backups remove theirs" in html
    assert reverse("admin:backups_backup_change", args=[backup.pk]) in html
    assert reverse("admin:jobs_job_change", args=[job.pk]) in html
    assert "The disk is full. Its newest good backup is 1 h old." in html


def test_page_renders_and_says_so_while_the_cluster_is_down(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    ObservedCollection.objects.create(cluster=cluster, name="products", first_seen_at=timezone.now())
    backup = make_backup(cluster, storage)

    response = root.get(of(cluster))

    assert response.status_code == 200
    assert "The cluster could not be asked." in text(response)
    assert "cannot be reached" in text(response)
    assert reverse("admin:backups_backup_change", args=[backup.pk]) in text(response)


def test_a_collection_that_was_deleted_keeps_its_page_as_long_as_it_has_a_past(
    root: Client, live: Cluster, storage: StorageConfig
) -> None:
    assert root.get(of(live, "never-was")).status_code == 404
    make_backup(live, storage, "gone")

    response = root.get(of(live, "gone"))

    assert response.status_code == 200
    assert "has no collection of this name" in text(response)
    assert "can still be restored" in text(response)


@pytest.mark.parametrize("query", ["", "?cluster=x&name=y", "?name=products", "?cluster=%00&name=%00"])
def test_nonsense_in_the_address_is_a_clear_404(root: Client, cluster: Cluster, query: str) -> None:
    response = root.get(reverse("admin:clusters_collection") + query)

    assert response.status_code == 404
    assert "does not exist" in text(response)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a?b#c", "<i>x</i>", "Łódź 🙂", "%2e%2e", "quote\"'"])
def test_any_name_has_a_page(root: Client, cluster: Cluster, storage: StorageConfig, name: str) -> None:
    ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=timezone.now())
    make_backup(cluster, storage, name)

    links = set(re.findall(r'href="(/admin/clusters/observedcollection/of/\?[^"#]+)', text(root.get(LIST))))
    assert len(links) == 1
    response = root.get(links.pop().replace("&amp;", "&"))

    assert response.status_code == 200
    assert response.context["name"] == name


def test_a_day_of_the_strip_shows_the_backups_of_that_day(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    now = timezone.now()
    old = make_backup(cluster, storage, created_at=now - timedelta(days=4))
    new = make_backup(cluster, storage, created_at=now)
    day = f"{now - timedelta(days=4):%Y-%m-%d}"

    whole, one = text(root.get(of(cluster))), text(root.get(of(cluster, day=day)))

    assert f"day={day}" in whole
    assert str(new.pk) in whole
    assert str(old.pk) in one
    assert reverse("admin:backups_backup_change", args=[new.pk]) not in one.split('id="backups"')[1]


# --- snapshots on the nodes --------------------------------------------------------------------------------
def test_snapshot_is_made_by_a_worker_after_a_confirmation(root: Client, live: Cluster) -> None:
    address = snapshot("create", live)
    asked = root.get(address)
    assert "no backup" in text(asked)
    assert not NodeOperation.objects.exists()

    for _ in range(2):
        response = root.post(address, hidden(asked))

    operation = NodeOperation.objects.get()
    assert (operation.kind, operation.collection_name, operation.cluster) == ("create_snapshot", "products", live)
    assert operation.created_by is not None
    assert response.url.endswith("#snapshots")
    assert "Create a snapshot" in text(root.get(of(live)))


def test_snapshots_of_the_nodes_can_be_downloaded_deleted_and_recovered_from(
    root: Client, live: Cluster, collections: Any, node: Any
) -> None:
    made = collections.call("POST", "/collections/products/snapshots?wait=true")["result"]["name"]
    html = text(root.get(of(live)))
    download = re.search(r'href="(/api/v1/collections/products/snapshots/[^"]+)" download', html)
    assert download
    response = root.get(download[1].replace("&amp;", "&"))
    assert response.status_code == 200
    assert len(b"".join(response.streaming_content)) > 1000

    address = snapshot("recover", live, node="", file=made)
    asked = root.get(address)
    refused = root.post(address, hidden(asked) | {"typed_name": "Products"})
    assert "exactly as it is written" in text(refused)
    root.post(address, hidden(refused) | {"typed_name": "products"})
    operation = NodeOperation.objects.get(kind="recover_snapshot")
    body = json.loads(operation.body.reveal())
    assert body == {"location": f"{node.url}/collections/products/snapshots/{made}", "priority": "snapshot"}

    address = snapshot("delete", live, node="", file=made)
    root.post(address, hidden(root.get(address)))
    assert NodeOperation.objects.get(kind="delete_snapshot").snapshot_name == made


def test_the_worker_does_what_the_pages_asked_for(
    root: Client, live: Cluster, collections: Any, django_capture_on_commit_callbacks: Any
) -> None:
    from apps.api.operations import run_operation

    address = snapshot("create", live)
    root.post(address, hidden(root.get(address)))
    run_operation(str(NodeOperation.objects.get().pk))
    made = NodeOperation.objects.get()
    assert (made.status, made.error) == ("completed", "")
    assert made.snapshot_name in collections.snapshots("products")
    collections.fill("products", range(30, 60))

    address = snapshot("recover", live, file=made.snapshot_name)
    root.post(address, hidden(root.get(address)) | {"typed_name": "products"})
    run_operation(str(NodeOperation.objects.get(kind="recover_snapshot").pk))

    assert NodeOperation.objects.get(kind="recover_snapshot").error == ""
    assert collections.count("products") == 30


def test_pages_of_snapshots_are_for_those_who_may(as_: Callable[[str], Client], live: Cluster) -> None:
    viewer, operator = as_("viewer"), as_("operator")
    for what in ("create", "delete", "recover"):
        address = snapshot(what, live, file="x.snapshot")
        assert viewer.get(address).status_code == 403
        assert viewer.post(address).status_code == 403
        assert operator.get(address).status_code == 200
        assert "too old" in text(operator.post(address, {"typed_name": "products"})), "a POST needs its confirmation"
    assert not NodeOperation.objects.exists()
    assert "Make snapshot" not in text(viewer.get(of(live)))
    assert "Back up now…" not in text(viewer.get(of(live)))


# --- lists -------------------------------------------------------------------------------------------------
def test_list_filters_by_state_cluster_and_name_and_keeps_the_filters_on_the_next_page(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    other = Cluster.objects.create(name="paris", url="http://127.0.0.1:9")
    now = timezone.now()
    for one in (cluster, other):
        ClusterObservation.objects.create(cluster=one, next_check_at=now, tried_at=now, seen_at=now)
    rows = [ObservedCollection(cluster=cluster, name=f"n{n:03}", first_seen_at=now) for n in range(60)]
    ObservedCollection.objects.bulk_create([*rows, ObservedCollection(cluster=other, name="solo", first_seen_at=now)])
    make_backup(other, storage, "solo", checked_at=now)
    forget_verdict()

    def shown(**query: str) -> list[str]:
        return re.findall(r'<th scope="row"><a [^>]*>([^<]+)</a>', text(root.get(LIST, query)))

    assert len(shown()) == 50
    assert shown(state="protected") == ["solo"]
    assert shown(cluster=str(other.pk)) == ["solo"]
    assert shown(q="N00") == [f"n00{n}" for n in range(10)]
    assert shown(state="unprotected", p="2") == [f"n{n:03}" for n in range(50, 60)]
    assert "state=unprotected&amp;p=2" in text(root.get(LIST, {"state": "unprotected"}))
    assert "Nothing matches" in text(root.get(LIST, {"q": "zzz"}))
    assert len(shown(state="nonsense", p="x")) == 50


def test_list_of_ten_thousand_collections_is_one_page_and_few_queries(
    root: Client, cluster: Cluster, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    now = timezone.now()
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, tried_at=now, seen_at=now)
    ObservedCollection.objects.bulk_create(
        [ObservedCollection(cluster=cluster, name=f"n{n:05}", first_seen_at=now) for n in range(10_000)],
        batch_size=2000,
    )
    for address in (LIST, "/admin/", reverse("admin:clusters_cluster_overview", args=[cluster.pk])):
        with django_assert_max_num_queries(30):
            response = root.get(address)
        assert response.status_code == 200
        assert len(response.content) < 200_000, address


def test_empty_lists_lead_on(root: Client, cluster: Cluster) -> None:
    assert "No collection is known yet" in text(root.get(LIST))
    Cluster.objects.all().delete()
    assert reverse("admin:protection_first_steps") in text(root.get(LIST))


# --- one cluster -------------------------------------------------------------------------------------------
def test_cluster_page_shows_what_was_last_seen_and_test_connection_asks_now(
    root: Client, live: Cluster, node: Any, collections: Any
) -> None:
    page = reverse("admin:clusters_cluster_overview", args=[live.pk])
    html = text(root.get(page))
    assert "Reachable" in html
    assert "1 collection</h2>" in html
    assert "Known troubles of Qdrant 1.18.3" in html

    node.stop()
    assert "Reachable" in text(root.get(page)), "the page itself asks nobody"
    response = root.post(reverse("admin:clusters_cluster_test", args=[live.pk]))

    assert "cannot be reached" in told(response)
    html = text(root.get(page))
    assert "No contact since" in html
    assert ">products</a>" in html, "what was last known"


def test_page_of_a_deleted_cluster_is_a_404(root: Client) -> None:
    response = root.get("/admin/clusters/observedcollection/cluster/6f1c2f6e-0000-4000-8000-000000000000/")

    assert response.status_code == 404
    assert "This cluster does not exist" in text(response)


# --- first steps -------------------------------------------------------------------------------------------
def test_first_steps_say_what_came_of_each(
    root: Client, cluster: Cluster, node: Any, collections: Any, folder: Any
) -> None:
    page = reverse("admin:protection_first_steps")
    assert "nobody has asked it yet" in text(root.get(page))
    test = reverse("admin:clusters_cluster_test", args=[cluster.pk]) + "?next=first-steps"
    assert root.post(test).url == page
    assert "cannot be reached" in text(root.get(page))

    collections.create("products", 5)
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)
    root.post(test)
    html = text(root.get(page))
    assert "Qdrant 1.18.3 answers: 1 node, 1 collection." in html
    assert "When there is a cluster and a storage." in html

    storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    html = text(root.get(page))
    assert "collection=products" in html
    root.post(reverse("admin:storage_storageconfig_test", args=[storage.pk]) + "?next=first-steps")
    job = make_job(cluster, storage, status="running", bytes_done=61, bytes_total=100)
    html = text(root.get(page))
    assert f"progress-{job.pk}" in html
    assert f"jobs={job.pk}.Running" in html
    assert "It waits" in html
    Job.objects.update(status="completed")
    assert "All four steps are done" in text(root.get(page))


def test_first_steps_of_a_viewer_offer_nothing_to_start(as_: Callable[[str], Client], cluster: Cluster) -> None:
    html = text(as_("viewer").get(reverse("admin:protection_first_steps")))

    assert "An administrator has to do this." in html
    assert '<form method="post" action="/admin/clusters' not in html
