"""Kept collections: what a restore replaced by switching its aliases, and what people and programs decide about it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from rest_framework.test import APIClient

from apps.audit.models import AuditEntry
from apps.backups.models import KeptCollection
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from tests.api.conftest import NOW, V1, error_of, result_of, token_client
from tests.support import Collections

LIST = reverse("admin:backups_keptcollection_changelist")


@pytest.fixture
def kept(cluster: Cluster, collections: Collections) -> KeptCollection:
    """`live` led to `old`, and leads to `new` now."""
    for name in ("old", "new"):
        collections.put(f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
        points = [{"id": n, "vector": [n, 1]} for n in range(3 if name == "old" else 5)]
        collections.put(f"/collections/{name}/points?wait=true", {"points": points})
    lead(collections, "live", "new")
    return KeptCollection.objects.create(
        cluster=cluster,
        collection_name="old",
        replaced_by="new",
        aliases=["live"],
        points_count=3,
        job_id=uuid.uuid4(),
        created_at=NOW,
        switched_at=NOW,
    )


def lead(collections: Collections, alias: str, collection: str) -> None:
    collections.call("POST", "/collections/aliases", {
        "actions": [{"create_alias": {"collection_name": collection, "alias_name": alias}}]
    })  # fmt: skip


def leads_to(collections: Collections) -> dict[str, str]:
    found = collections.call("GET", "/aliases")["result"]["aliases"]
    return {one["alias_name"]: one["collection_name"] for one in found}


def path(kept: KeptCollection, more: str = "") -> str:
    return f"{V1}/kept-collections/{kept.pk}{more}"


def test_the_list_tells_what_is_kept_at_a_constant_cost(api: APIClient, kept: KeptCollection) -> None:
    (shown,) = result_of(api.get(f"{V1}/kept-collections?cluster=main"))["items"]
    assert shown == result_of(api.get(path(kept)))
    assert (shown["collection_name"], shown["replaced_by"], shown["aliases"]) == ("old", "new", ["live"])
    assert api.get(f"{V1}/kept-collections?cluster=unknown").status_code == 404
    counts = []
    for turn in range(2):
        with CaptureQueriesContext(connection) as queries:
            api.get(f"{V1}/kept-collections?limit=100")
        counts.append(len(queries))
        for number in range(20):
            KeptCollection.objects.create(
                cluster=kept.cluster, collection_name=f"old-{turn}-{number}", replaced_by="new", created_at=NOW
            )
    assert counts[0] == counts[1]


def test_removing_it_deletes_the_collection_and_nothing_else(
    api: APIClient, kept: KeptCollection, collections: Collections
) -> None:
    assert result_of(api.delete(path(kept))) is True

    assert collections.names() == ["new"]
    assert leads_to(collections) == {"live": "new"}
    assert not KeptCollection.objects.exists()
    assert AuditEntry.objects.filter(action="kept.remove", object_name="old").exists()
    assert api.get(path(kept)).status_code == api.delete(path(kept)).status_code == 404


def test_what_is_used_again_is_not_removed(
    api: APIClient, kept: KeptCollection, collections: Collections, make_job: Any
) -> None:
    lead(collections, "other", "old")
    used = api.delete(path(kept))
    assert (used.status_code, "'other' leads to it" in error_of(used)) == (409, True)
    collections.call("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "other"}}]})

    job = make_job(status="running", subject_collection="old", subject_cluster=kept.cluster)
    busy = api.delete(path(kept))
    assert (busy.status_code, "pending or running" in error_of(busy)) == (409, True)
    job.delete()

    collections.put("/collections/old/points?wait=true", {"points": [{"id": 9, "vector": [1, 1]}]})
    changed = api.delete(path(kept))
    assert (changed.status_code, "holds 4 points now and held 3" in error_of(changed)) == (409, True)
    assert collections.names() == ["new", "old"]

    assert result_of(api.delete(path(kept, "?even_if_changed=true"))) is True
    assert collections.names() == ["new"]


def test_one_that_somebody_else_has_deleted_is_forgotten(
    api: APIClient, kept: KeptCollection, collections: Collections
) -> None:
    collections.delete("old")
    assert result_of(api.delete(path(kept))) is True
    assert not KeptCollection.objects.exists()


def test_a_switch_back_is_one_call_and_can_be_taken_back_itself(
    api: APIClient, kept: KeptCollection, collections: Collections, node: Any
) -> None:
    calls = len([entry for entry in node.log() if entry["path"] == "/collections/aliases"])
    back = result_of(api.post(path(kept, "/switch-back")))

    assert leads_to(collections) == {"live": "old"}
    # The fixture's own call may be entered late.
    assert sum(entry["path"] == "/collections/aliases" for entry in node.log()) <= max(calls, 1) + 1
    assert (back["collection_name"], back["replaced_by"], back["points_count"]) == ("new", "old", 5)
    assert api.get(path(kept)).status_code == 404
    result_of(api.post(f"{V1}/kept-collections/{back['id']}/switch-back"))
    assert leads_to(collections) == {"live": "new"}
    assert collections.names() == ["new", "old"]


def test_a_switch_back_is_refused_when_things_have_changed(
    api: APIClient, kept: KeptCollection, collections: Collections
) -> None:
    lead(collections, "live", "old")
    astray = api.post(path(kept, "/switch-back"))
    assert (astray.status_code, "does not lead to 'new' any more" in error_of(astray)) == (409, True)
    lead(collections, "live", "new")
    collections.delete("old")
    gone = api.post(path(kept, "/switch-back"))
    assert (gone.status_code, "is not there any more" in error_of(gone)) == (409, True)
    assert leads_to(collections) == {"live": "new"}


def test_forgetting_touches_nothing_in_the_cluster(
    api: APIClient, kept: KeptCollection, collections: Collections
) -> None:
    assert result_of(api.post(path(kept, "/forget"))) is True
    assert collections.names() == ["new", "old"]
    assert not KeptCollection.objects.exists()


def test_a_cluster_that_is_away_is_said_and_changes_nothing(api: APIClient, kept: KeptCollection) -> None:
    Cluster.objects.update(url="http://127.0.0.1:9")
    for answer in (api.delete(path(kept)), api.post(path(kept, "/switch-back"))):
        assert answer.status_code == 503
        assert "cannot be reached" in error_of(answer)
    assert KeptCollection.objects.get() == kept


def test_who_may_decide(kept: KeptCollection, collections: Collections) -> None:
    operator, restorer = token_client(Scope.OPERATE), token_client(Scope.RESTORE)
    assert operator.post(path(kept, "/switch-back")).status_code == 403
    for refused in (restorer.delete(path(kept)), restorer.post(path(kept, "/forget"))):
        assert refused.status_code == 403
    assert restorer.post(path(kept, "/switch-back")).status_code == 200
    assert collections.names() == ["new", "old"]


# --- the admin -----------------------------------------------------------------------------------------------
def page(name: str, kept: KeptCollection) -> str:
    return reverse(f"admin:backups_keptcollection_{name}", args=[kept.pk])


def test_the_pages_show_and_escape(admin_client: Client, kept: KeptCollection) -> None:
    markup = "<script>alert(1)</script>"
    KeptCollection.objects.filter(pk=kept.pk).update(
        collection_name=markup, replaced_by=markup, aliases=[markup], switched_at=None
    )
    for address in (LIST, *(page(name, kept) for name in ("change", "remove", "switch_back", "forget"))):
        html = admin_client.get(address).content.decode()
        assert "&lt;script&gt;alert(1)" in html, address
        assert markup not in html, address


def test_removing_wants_the_name_typed_and_says_when_it_is_written_to(
    admin_client: Client, kept: KeptCollection, collections: Collections
) -> None:
    wrong = admin_client.post(page("remove", kept), {"typed_name": "new"})
    assert "exactly as it is written" in wrong.content.decode()
    collections.put("/collections/old/points?wait=true", {"points": [{"id": 9, "vector": [1, 1]}]})
    told = admin_client.post(page("remove", kept), {"typed_name": "old"}).content.decode()
    assert "holds 4 points now and held 3" in told
    assert 'name="even_if_changed"' in told
    assert collections.names() == ["new", "old"]

    done = admin_client.post(page("remove", kept), {"typed_name": "old", "even_if_changed": "1"}, follow=True)

    assert "Removed old from main." in " ".join(map(str, get_messages(done.wsgi_request))) + done.content.decode()
    assert collections.names() == ["new"]
    assert admin_client.get(page("change", kept)).status_code == 404


def test_switch_back_and_keep_for_good_from_the_admin(
    admin_client: Client, kept: KeptCollection, collections: Collections
) -> None:
    assert leads_to(collections) == {"live": "new"}
    admin_client.get(page("switch_back", kept))
    assert leads_to(collections) == {"live": "new"}, "nothing changes on GET"
    admin_client.post(page("switch_back", kept))
    assert leads_to(collections) == {"live": "old"}
    now = KeptCollection.objects.get()
    assert now.collection_name == "new"
    admin_client.post(page("forget", now))
    assert not KeptCollection.objects.exists()
    assert collections.names() == ["new", "old"]
