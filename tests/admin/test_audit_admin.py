"""The audit trail as people see it, and what the admin's own pages leave in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from apps.audit.models import AuditEntry, Outcome, Via
from apps.audit.trail import record_action
from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.storage.models import StorageConfig

LIST = reverse("admin:audit_auditentry_changelist")


def newest() -> AuditEntry:
    return AuditEntry.objects.order_by("-id")[0]


def test_forms_and_own_pages_leave_one_entry_each(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    before = AuditEntry.objects.count()

    page = reverse("admin:clusters_cluster_change", args=[cluster.pk])
    form = root.get(page).context_data["adminform"].form
    values = {name: value for name, value in form.initial.items() if isinstance(value, str)}
    answer = root.post(page, values | {"name": "hamburg", "url": cluster.url, "nodes": "{}"})
    assert answer.status_code == 302, answer.context_data["adminform"].form.errors

    assert AuditEntry.objects.count() == before + 1
    entry = newest()
    assert (entry.action, entry.object_name, entry.via, entry.actor) == ("cluster.change", "hamburg", Via.ADMIN, "root")
    assert "name" in entry.summary.lower()


def test_a_form_that_is_shown_again_leaves_none(root: Client) -> None:
    before = AuditEntry.objects.count()
    assert root.post(reverse("admin:clusters_cluster_add"), {"name": ""}).status_code == 200
    assert AuditEntry.objects.count() == before


def test_signing_in_and_failing_to_is_told_for_names_that_exist(db: None) -> None:
    User.objects.create_user("ana", password="a-long-pass-phrase", is_staff=True)
    client, page = Client(REMOTE_ADDR="203.0.113.9"), reverse("admin:login")

    client.post(page, {"username": "ana", "password": "wrong"})
    assert (newest().action, newest().outcome, newest().object_name) == ("session.fail", Outcome.REFUSED, "ana")
    client.post(page, {"username": "secret-typed-as-name", "password": "wrong"})
    client.post(page, {"username": "ana", "password": "a-long-pass-phrase"})
    assert (newest().action, newest().actor, newest().address) == ("session.begin", "ana", "203.0.113.9")
    client.post(reverse("admin:logout"))
    assert newest().action == "session.end"
    assert "secret" not in str(list(AuditEntry.objects.values()))


def test_only_administrators_see_it_and_nobody_changes_it(as_: Callable[[str], Client]) -> None:
    entry = record_action("job.create", "Started the backup of <b>films</b> on demo.")
    page = reverse("admin:audit_auditentry_change", args=[entry.pk])

    administrator = as_("administrator")
    listed = administrator.get(LIST).content.decode()
    assert "&lt;b&gt;films" in listed
    assert "<b>films" not in listed
    assert administrator.get(page).status_code == 200
    administrator.post(page, {"summary": "nothing happened"})
    assert administrator.get(reverse("admin:audit_auditentry_delete", args=[entry.pk])).status_code == 403
    assert administrator.get(reverse("admin:audit_auditentry_add")).status_code == 403
    entry.refresh_from_db()
    assert "films" in entry.summary
    assert as_("operator").get(LIST).status_code == 403
    assert "Audit trail" not in as_("viewer").get(reverse("admin:index")).content.decode()


@pytest.mark.parametrize("query", ["?q=films", "?who=ana", "?about=job", "?via__exact=api", "?outcome__exact=refused"])
def test_the_list_is_filtered(root: Client, query: str) -> None:
    User.objects.create_user("ana")
    record_action("cluster.delete", "Deleted the cluster demo.")

    page = root.get(LIST + query)

    assert page.status_code == 200
    assert "Deleted the cluster demo." not in page.content.decode()


def test_the_history_of_an_object_is_its_part_of_the_trail(root: Client, backup: Backup) -> None:
    answer = root.get(reverse("admin:clusters_cluster_history", args=[backup.cluster_id]))

    assert answer.status_code == 302
    assert answer["Location"] == f"{LIST}?q={backup.cluster_id}"
