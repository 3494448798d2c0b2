"""The steps to a restore: where to, the plan, the name typed where it overwrites, and then one job."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
import requests
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.clusters.observed import ObservedCollection
from apps.jobs.expected import expected_restore
from apps.jobs.models import Job
from apps.storage.models import StorageConfig
from tests.admin.test_admin_actions import hidden
from tests.admin.world import make_backup, make_job


@pytest.fixture
def live(cluster: Cluster, node: Any, collections: Any) -> Cluster:
    """The cluster, answering now, with a collection `products` like that of the backups."""
    collections.create("products", 30)
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)
    cluster.refresh_from_db()
    return cluster


@pytest.fixture
def fitting(live: Cluster, storage: StorageConfig) -> Backup:
    """A backup whose configuration is that of the live collection."""
    config = requests.get(f"{live.url}/collections/products", timeout=5).json()["result"]["config"]
    backup = make_backup(live, storage)
    backup.manifest["collection"]["config"] = config
    backup.save()
    return backup


def step(backup: Backup, cluster: Cluster, **more: Any) -> str:
    """The address of the plan for these choices."""
    chosen = {"backup": backup.pk, "step": "plan", "target_cluster": cluster.pk, "target_collection": "products"}
    return f"{reverse('admin:jobs_job_restore')}?{urlencode(chosen | more)}"


def html(response: Any) -> str:
    return str(response.content.decode())


def test_into_a_new_name_nothing_is_touched_and_two_clicks_start_one_job(
    root: Client, live: Cluster, backup: Backup
) -> None:
    address = step(backup, live, target_collection="products-2")
    plan = root.get(address)
    assert "The collection &#x27;products-2&#x27; is created on &#x27;berlin&#x27;" in html(plan)
    assert not Job.objects.exists()

    first, second = root.post(address, hidden(plan)), root.post(address, hidden(plan))

    job = Job.objects.get()
    assert first.url == second.url == reverse("admin:jobs_job_change", args=[job.pk])
    assert (job.type, job.backup, job.target_collection, job.overwrite) == ("restore", backup, "products-2", False)


def test_the_plan_tells_versions_parts_journey_and_that_nobody_knows_how_long(
    root: Client, live: Cluster, backup: Backup
) -> None:
    plan = html(root.get(step(backup, live, target_collection="products-2")))

    assert "The backup was made by Qdrant 1.18.3; berlin runs 1.18.3." in plan
    assert "2 parts, 1.0 MiB. The worker reads them from the folder" in plan
    assert "Unknown until a first restore has been measured." in plan
    assert '<li aria-current="step"><span class="bm-step" aria-hidden="true">2</span> Plan and confirmation' in plan


def test_the_first_step_keeps_what_was_chosen_and_the_plan_leads_back_to_it(
    root: Client, live: Cluster, backup: Backup
) -> None:
    chosen = {"target_collection": "products-2", "replication_factor": 1, "verify_points": "all"}
    plan = html(root.get(step(backup, live, **chosen)))
    back = re.findall(r'href="([^"]+)">Back<', plan)[0].replace("&amp;", "&")

    form = html(root.get(back))

    assert "step=plan" not in back
    assert 'name="target_collection" value="products-2"' in form
    assert 'name="replication_factor" value="1"' in form
    assert re.search(r'<option value="all"\s+selected', form)
    assert '<details class="bm-options" open>' in form


def test_the_name_offered_is_one_that_is_not_taken(root: Client, live: Cluster, backup: Backup) -> None:
    address = f"{reverse('admin:jobs_job_restore')}?backup={backup.pk}"
    assert 'name="target_collection" value="products"' in html(root.get(address))

    ObservedCollection.objects.create(cluster=live, name="products", first_seen_at=timezone.now())

    assert f'value="products-restored-{timezone.localtime():%m%d}"' in html(root.get(address))


def test_a_name_that_is_taken_is_refused_until_overwrite_is_chosen(root: Client, live: Cluster, backup: Backup) -> None:
    response = html(root.get(step(backup, live)))

    assert "exists with" in response
    assert 'name="confirmation"' not in response
    assert 'name="target_collection" value="products"' in response


def test_overwriting_wants_the_name_typed(root: Client, live: Cluster, fitting: Backup) -> None:
    address = step(fitting, live, overwrite="on")
    plan = root.get(address)
    assert "The points of &#x27;products&#x27; on &#x27;berlin&#x27;" in html(plan)

    wrong = root.post(address, hidden(plan) | {"typed_name": "Products"})
    assert "exactly as it is written" in html(wrong)
    assert not Job.objects.exists()

    root.post(address, hidden(wrong) | {"typed_name": "products"})
    assert Job.objects.get().overwrite is True


def test_what_has_changed_since_the_plan_was_read_is_shown_before_anything_starts(
    root: Client, live: Cluster, fitting: Backup
) -> None:
    address = step(fitting, live, overwrite="on")
    plan = root.get(address)
    assert "The points of &#x27;products&#x27; on &#x27;berlin&#x27;" in html(plan)
    requests.delete(f"{live.url}/collections/products", timeout=10).raise_for_status()

    told = root.post(address, hidden(plan) | {"typed_name": "products"})

    assert not Job.objects.exists()
    assert "What is there has changed since you read this." in html(told)
    assert "The collection &#x27;products&#x27; is created on &#x27;berlin&#x27;" in html(told)
    root.post(address, hidden(told) | {"typed_name": "products"})
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("target_collection", ""), ("target_collection", "a/b"), ("target_collection", "x" * 256), ("shard", "17"),
     ("shard", "one"), ("target_cluster", "nonsense"), ("replication_factor", "0"), ("verify_points", "some")],
)  # fmt: skip
def test_what_is_wrong_stands_beside_its_field(
    root: Client, cluster: Cluster, backup: Backup, field: str, value: str
) -> None:
    address = step(backup, cluster, **{field: value})

    for response in (root.get(address), root.post(address, {"confirmation": "x", "typed_name": "products"})):
        assert response.status_code == 200
        assert f'id="id_{field}_error"' in html(response)
    assert not Job.objects.exists()


def test_every_field_wrong_shows_every_error(root: Client, cluster: Cluster, backup: Backup) -> None:
    wrong = {"target_cluster": "x", "target_collection": "a/b", "shard": "x", "replication_factor": "x",
             "verify_points": "x"}  # fmt: skip

    response = html(root.get(step(backup, cluster, **wrong)))

    assert [field for field in wrong if f'id="id_{field}_error"' not in response] == []


def test_it_can_be_asked_for_while_the_target_is_down(root: Client, cluster: Cluster, backup: Backup) -> None:
    address = step(backup, cluster, target_collection="new")
    plan = root.get(address)

    assert "What is there now could not be seen" in html(plan)
    root.post(address, hidden(plan))
    assert Job.objects.get().target_collection == "new"


def test_one_shard(root: Client, cluster: Cluster, backup: Backup) -> None:
    address = step(backup, cluster, shard="1")
    plan = root.get(address)
    assert "1 part, 512.0 KiB." in html(plan)
    root.post(address, hidden(plan))

    job = Job.objects.get()
    assert (job.type, job.shard_id) == ("shard_restore", 1)


def test_without_a_backup_it_leads_to_the_backups(root: Client) -> None:
    for asked in ("", "?backup=", "?backup=nonsense", f"?backup={uuid.uuid4()}"):
        response = root.get(reverse("admin:jobs_job_restore") + asked)

        assert response.url == reverse("admin:backups_backup_changelist")


def test_a_confirmation_that_was_never_given_out_starts_nothing(root: Client, cluster: Cluster, backup: Backup) -> None:
    response = root.post(step(backup, cluster), {"confirmation": "made up"})

    assert "This confirmation is too old" in html(response)
    assert not Job.objects.exists()


def test_markup_in_names_is_text(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    nasty = '<img src=x onerror="alert(1)">'
    backup = make_backup(cluster, storage, nasty)

    for address in (f"{reverse('admin:jobs_job_restore')}?backup={backup.pk}",
                    step(backup, cluster, target_collection=nasty)):  # fmt: skip
        assert "<img src=x" not in html(root.get(address))


# --- how long it takes -------------------------------------------------------------------------------------
def measured(cluster: Cluster, storage: StorageConfig, backup: Backup, seconds: float, **fields: Any) -> Job:
    end = timezone.now()
    return make_job(
        cluster, storage, type="restore", backup=backup, started_at=end - timedelta(seconds=seconds), completed_at=end,
        **fields,
    )  # fmt: skip


def test_expected_time_is_unknown_before_the_first_restore(cluster: Cluster, storage: StorageConfig) -> None:
    assert expected_restore(size_bytes=1, storage=storage, cluster=cluster) is None


def test_expected_time_scales_with_the_size_and_names_its_source(
    root: Client, cluster: Cluster, storage: StorageConfig, backup: Backup
) -> None:
    for seconds in (60, 90):
        measured(cluster, storage, backup, seconds)  # of 1 MiB

    expected = expected_restore(size_bytes=4 * 1024 * 1024, storage=storage, cluster=cluster)

    assert expected is not None
    assert expected.sentence == "About 4 min to 6 min, measured at 2 restores from vault into berlin."
    smaller = expected_restore(size_bytes=1024, storage=storage, cluster=cluster)
    assert smaller is not None
    assert smaller.sentence.startswith("About 1 min,")  # none was ever quicker
    assert "measured at 2 restores from vault into berlin" in html(root.get(step(backup, cluster)))


def test_expected_time_looks_at_what_is_alike(cluster: Cluster, storage: StorageConfig, backup: Backup) -> None:
    measured(cluster, storage, backup, 600, overwrite=True)
    measured(cluster, storage, backup, 60)
    for left_out in ({"status": "failed"}, {"attempt": 3}, {"backup": None}):
        measured(cluster, storage, **({"backup": backup, "seconds": 5000} | left_out))
    other = Cluster.objects.create(name="paris", url="http://127.0.0.1:19")

    def words(where: Cluster | None, *, overwrites: bool) -> str:
        found = expected_restore(size_bytes=1024**2, storage=storage, cluster=where, overwrites=overwrites)
        return found.sentence if found else ""

    assert words(cluster, overwrites=True) == "About 10 min, measured at 1 restore from vault into berlin."
    assert words(cluster, overwrites=False) == "About 1 min, measured at 1 restore from vault into berlin."
    assert words(other, overwrites=False) == "About 1 min, measured at 1 restore from vault."


def test_one_odd_day_does_not_widen_the_range(cluster: Cluster, storage: StorageConfig, backup: Backup) -> None:
    for seconds in (60, 60, 60, 60, 9000):
        measured(cluster, storage, backup, seconds)

    expected = expected_restore(size_bytes=1024**2, storage=storage, cluster=cluster)

    assert expected is not None
    assert expected.high_seconds == pytest.approx(60, abs=1)
