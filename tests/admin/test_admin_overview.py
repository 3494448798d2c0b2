"""The first page: the verdict, what needs somebody, and everything beside it; few queries, whatever there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.core.admin_cells import exact
from apps.jobs.models import Job, Worker
from apps.protection.facts import forget_verdict
from apps.schedules.models import Schedule
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import maker

INDEX = "/admin/"


def text(response: Any) -> str:
    return response.content.decode()


def sentence(html: str) -> str:
    found = re.search(r'class="bm-verdict-sentence">(.*?)</p>', html, re.S)
    assert found
    return found[1]


@pytest.fixture
def worker(db: None) -> Worker:
    now = timezone.now()
    return Worker.objects.create(host="here", pid=1, processes=1, started_at=now, seen_at=now)


def see(cluster: Cluster, *names: str, ago: timedelta = timedelta(seconds=10), problem: str = "") -> None:
    """The cluster was asked, and had these collections."""
    now = timezone.now()
    ClusterObservation.objects.update_or_create(
        cluster=cluster,
        defaults={
            "next_check_at": now,
            "tried_at": now,
            "seen_at": now - ago,
            "problem": problem,
            "version": "1.18.3",
            "nodes": [
                {"peer_id": "77", "url": "http://a:6333", "uri": "", "version": "1.18.3", "role": "leader",
                 "is_usable": True},
                {"peer_id": "78", "url": "", "uri": "http://b:6335", "version": "", "role": "follower",
                 "is_usable": False},
            ],
            "raft": {"term": 3, "commit": 51, "leader": 77, "pending_operations": 0},
        },
    )  # fmt: skip
    ObservedCollection.objects.bulk_create(
        [ObservedCollection(cluster=cluster, name=name, points_count=2000, first_seen_at=now) for name in names]
    )
    forget_verdict()


def test_an_empty_installation_leads_to_the_first_steps(root: Client) -> None:
    html = text(root.get(INDEX))

    assert sentence(html).startswith("Nothing is protected yet.")
    assert reverse("admin:protection_first_steps") in html


def test_everything_fine_is_one_green_sentence(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products")
    make_backup(cluster, storage, checked_at=timezone.now())

    html = text(root.get(INDEX))

    assert sentence(html) == "The one collection is protected. Newest backup 1 h ago."
    assert "<title>✓ Overview | backupmgr</title>" in html
    assert "icons/protected.svg" in html
    assert "Needs attention" not in html


def test_the_worst_comes_first_and_what_runs_does_not_hide_it(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users", "events")
    make_backup(cluster, storage, "products")
    make_job(cluster, storage, "products", status="failed", error="S3-eu refuses writes (AccessDenied).")
    make_backup(cluster, storage, "events", created_at=timezone.now() - timedelta(hours=33))
    make_job(cluster, storage, "events", status="running", bytes_total=100, bytes_done=10)

    html = text(root.get(INDEX))

    assert sentence(html) == "products has had no good backup for 1 h: S3-eu refuses writes (AccessDenied)."
    assert "Also 1 unprotected, 1 overdue." in html
    assert "1 job running or queued" in html
    needy = html[html.index('id="needy"') : html.index('id="running"')]
    assert re.findall(r'bm-strong" href="[^"]+">([^<]+)<', needy) == ["products", "users", "events"]
    assert "expected at least every 26 h" in needy
    assert needy.count("Back up now…</a>") == 2


def test_title_icon_badge_and_sentence_come_from_one_verdict(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users")
    root.get(reverse("admin:jobs_job_changelist"))  # remembers: nothing is backed up
    make_backup(cluster, storage, "products", checked_at=timezone.now())
    make_backup(cluster, storage, "users", checked_at=timezone.now())

    html = text(root.get(INDEX))  # judges anew, and every part of it shows that

    assert sentence(html).startswith("All 2 collections are protected.")
    assert "✓ Overview" in html
    assert html.count('rel="icon"') == 1
    assert "icons/protected.svg" in html
    assert "bm-badge" not in html
    assert "icons/protected.svg" in text(root.get(reverse("admin:jobs_job_changelist")))


def test_a_cluster_without_contact_is_unknown_and_never_green(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", ago=timedelta(hours=6), problem="Qdrant at x cannot be reached.")
    make_backup(cluster, storage, checked_at=timezone.now())

    html = text(root.get(INDEX))

    assert sentence(html).startswith("I cannot vouch for cluster berlin: no contact since")
    assert "Last known: 1 collection, none overdue." in html
    assert "No contact" in html
    assert "icons/unknown.svg" in html


def test_a_cluster_that_nobody_has_asked_is_unknown_with_the_collections_of_its_backups(
    root: Client, cluster: Cluster, backup: Backup, worker: Worker
) -> None:
    html = text(root.get(INDEX))

    assert sentence(html) == "I cannot vouch for cluster berlin: it has not been checked yet."
    assert ">products</a>" in html


def test_a_damaged_newest_backup_is_a_failure_and_an_older_one_a_doubt(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products")
    make_backup(cluster, storage, checked_at=timezone.now())
    bad = make_backup(
        cluster, storage, created_at=timezone.now(), status="damaged", status_reason="shard-0 has another SHA-256."
    )
    html = text(root.get(INDEX))
    assert "The newest backup is no good: shard-0 has another SHA-256." in sentence(html)
    assert reverse("admin:backups_backup_change", args=[bad.pk]) in html

    Backup.objects.filter(pk=bad.pk).update(created_at=timezone.now() - timedelta(days=2))
    assert sentence(text(root.get(INDEX))) == "1 older backup is damaged or missing in the storage."


def test_backups_of_single_shards_and_failures_made_good_since_do_not_count(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users")
    make_backup(cluster, storage, "products", shard_id=0)
    make_job(cluster, storage, "users", status="failed", error="x")
    make_backup(cluster, storage, "users", created_at=timezone.now(), checked_at=timezone.now())

    assert sentence(text(root.get(INDEX))) == "products on berlin has never been backed up."


def test_a_collection_that_was_deleted_on_the_cluster_needs_no_backup(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "old")
    make_backup(cluster, storage, checked_at=timezone.now())
    ObservedCollection.objects.filter(name="old").update(gone_at=timezone.now())

    assert "is protected" in sentence(text(root.get(INDEX)))


def test_the_maximum_age_of_the_cluster_decides_what_is_overdue(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products")
    make_backup(cluster, storage, created_at=timezone.now() - timedelta(days=3), checked_at=timezone.now())
    assert "expected at least every 26 h" in sentence(text(root.get(INDEX)))

    Cluster.objects.update(max_backup_age_hours=168)

    assert "is protected" in sentence(text(root.get(INDEX)))


def test_what_stands_beside_the_verdict(root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker) -> None:
    see(cluster, "products", "users")
    backup = make_backup(cluster, storage, restored_at=timezone.now() - timedelta(days=9), checked_at=timezone.now())
    make_job(cluster, storage, "products")
    for number in range(3):
        make_job(cluster, storage, f"c{number}", status="failed", error=f"Storage vault is full (c{number}).")

    html = text(root.get(INDEX))

    assert "2 nodes, Qdrant 1.18.3, term 3, commit 51" in html
    assert reverse("admin:clusters_cluster_overview", args=[cluster.pk]) in html
    assert "Proven <time" in html
    assert reverse("admin:backups_backup_change", args=[backup.pk]) in html
    assert "1.0 MiB in 1 backup" in html
    assert "1 succeeded, 3 failed" in html
    assert html.count('class="bm-count">3 ×<') == 1, "one cause, one row"
    assert 'aria-label="Last 30 days: 1 with a backup, 0 with failures only, 0 missed"' in html


def test_what_runs_next_by_itself_and_how_much_is_proven(
    root: Client, as_: Callable[[str], Client], cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users")
    now = timezone.now()
    make_backup(cluster, storage, restored_at=now - timedelta(days=9))
    make_backup(cluster, storage, "users", restored_at=now - timedelta(days=90))
    assert "No schedule yet: nothing is backed up by itself." in text(root.get(INDEX))
    assert "Add a schedule" not in text(as_("viewer").get(INDEX))
    make = maker(cluster)
    nightly, weekly = make("nightly", now), make("weekly", now)
    Schedule.objects.filter(pk=weekly.pk).update(paused_at=now, pause_reason="moving house")

    html = text(root.get(INDEX))

    assert reverse("admin:schedules_schedule_change", args=[nightly.pk]) in html
    nightly.refresh_from_db()
    assert nightly.next_run_at is not None
    assert exact(nightly.next_run_at) in html
    assert "moving house" in html
    assert "1 of 2 proven by a restore in the last 30 days, the oldest proof 9 d ago." in html


def test_viewers_see_all_of_it_and_no_button_that_starts_something(
    as_: Callable[[str], Client], cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users")
    make_job(cluster, storage, "products", status="failed", error="x")

    html = text(as_("viewer").get(INDEX))

    assert "products has no good backup" in html
    assert "Back up now…" not in html
    assert text(as_("").get(INDEX, follow=True)).count("products") == 0


def test_someone_in_no_group_sees_nothing_and_is_told_what_to_do(cluster: Cluster) -> None:
    from tests.admin.world import person

    client = Client()
    client.force_login(person(name="nobody"))
    html = text(client.get(INDEX))

    assert "may not see anything yet" in html
    assert "berlin" not in html
    assert "backupmgr/icon.svg" in html


def test_as_many_queries_for_a_hundred_collections_as_for_one(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker, django_assert_max_num_queries: Any
) -> None:
    see(cluster, "first")
    make_backup(cluster, storage, "first")
    names = [f"n{number}" for number in range(100)]
    counts = []
    for more in ([], names):
        see(cluster, *more)
        for name in more:
            make_backup(cluster, storage, name)
            make_job(cluster, storage, name, status="failed", error=f"broken: {name}")
            make_job(cluster, storage, name, status="running")
        with django_assert_max_num_queries(35) as counted:
            assert root.get(INDEX).status_code == 200
        counts.append(len(counted))

    assert counts[1] - counts[0] <= 1, counts  # the jobs that ended last are looked up once there are any


def test_following_every_link_of_the_overview_changes_nothing(
    root: Client, cluster: Cluster, storage: StorageConfig, worker: Worker
) -> None:
    see(cluster, "products", "users")
    make_backup(cluster, storage)
    make_job(cluster, storage, "users", status="failed", error="x")
    before = (Job.objects.count(), Backup.objects.count(), ObservedCollection.objects.count())

    links = set(re.findall(r'href="(/admin/[^"#]*)', text(root.get(INDEX))))
    assert len(links) > 15
    for link in links:
        assert root.get(link.replace("&amp;", "&")).status_code in (200, 302), link

    assert (Job.objects.count(), Backup.objects.count(), ObservedCollection.objects.count()) == before
