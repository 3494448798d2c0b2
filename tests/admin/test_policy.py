"""The content security policy, and the pages of people."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse


@pytest.mark.parametrize("address", ["/admin/", "/admin/login/", "/admin/nowhere/", "/api/v1/nowhere", "/healthz"])
def test_every_answer_says_that_nothing_comes_from_elsewhere(root: Client, address: str) -> None:
    policy = root.get(address)["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_a_person_is_made_an_operator_with_two_ticks(root: Client) -> None:
    operator = Group.objects.get(name="operator")

    answer = root.post(
        reverse("admin:auth_user_add"),
        {"username": "ana", "usable_password": "true", "password1": "a-long-pass-phrase",
         "password2": "a-long-pass-phrase", "is_staff": "on", "groups": [operator.pk]},
    )  # fmt: skip

    assert answer.status_code == 302, answer.context_data["adminform"].form.errors
    ana = User.objects.get(username="ana")
    assert ana.is_staff
    assert ana.has_perm("jobs.restore_job")
    assert not ana.has_perm("storage.change_storageconfig")


def test_a_group_offers_what_means_something_here_and_keeps_what_else_it_has(root: Client) -> None:
    from django.contrib.auth.models import Permission

    group = Group.objects.create(name="auditors")
    other = Permission.objects.get(codename="view_logentry")
    group.permissions.add(other)
    page = reverse("admin:auth_group_change", args=[group.pk])

    offered = root.get(page).context_data["adminform"].form.fields["permissions"].queryset
    assert other in offered
    assert not offered.filter(content_type__app_label="sessions").exists()
    trail = Permission.objects.get(codename="view_auditentry")
    assert root.post(page, {"name": "auditors", "permissions": [trail.pk, other.pk]}).status_code == 302
    assert set(group.permissions.all()) == {trail, other}


def test_only_superusers_see_people(as_: Callable[[str], Client]) -> None:
    for group in ("viewer", "operator", "administrator"):
        client = as_(group)
        assert client.get(reverse("admin:auth_user_changelist")).status_code == 403
        assert client.post(reverse("admin:auth_user_add"), {"username": "x"}).status_code == 403
