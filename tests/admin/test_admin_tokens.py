"""API tokens in the admin: made with one's own rights at most, shown once, revoked by a POST, never edited."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.api.models import ApiToken
from apps.api.services import create_token, find_token
from apps.core.permissions import Scope
from tests.admin.world import person

ADD = reverse("admin:api_apitoken_add")
LIST = reverse("admin:api_apitoken_changelist")


def text(response: Any) -> str:
    return str(response.content.decode())


def confirmation(client: Client) -> str:
    found = re.search(r'name="confirmation" value="([^"]+)"', text(client.get(ADD)))
    assert found
    return found[1]


def make(client: Client, **fields: Any) -> Any:
    return client.post(ADD, {"name": "ci", "scope": "read", "confirmation": confirmation(client)} | fields)


def secret_in(response: Any) -> str:
    found = re.search(r"bmgr_[0-9a-f]{12}_[\w-]{43}", text(response))
    assert found, text(response)
    return found[0]


def a_token(user: User, name: str = "t", **fields: Any) -> ApiToken:
    return create_token(user=user, name=name, scope=Scope.READ, now=timezone.now(), **fields)[0]


def revoke(token: ApiToken) -> str:
    return reverse("admin:api_apitoken_revoke", args=[token.pk])


def test_a_viewer_makes_a_token_of_their_own_and_its_secret_works(as_: Callable[[str], Client]) -> None:
    client = as_("viewer")

    response = make(client, name="ci", expires_days="30")

    assert response.status_code == 200
    found = find_token(secret=secret_in(response), now=timezone.now())
    assert found is not None
    assert (found.user.username, found.scope, found.name) == ("viewer", "read", "ci")
    assert found.expires_at is not None
    assert abs(found.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert "no-store" in response["Cache-Control"]


def test_the_secret_is_shown_once_and_lies_nowhere(root: Client) -> None:
    response = make(root, user=User.objects.get().pk)
    secret = secret_in(response)

    tail = secret.split("_", 2)[2]
    token = ApiToken.objects.get()
    pages = [LIST, reverse("admin:api_apitoken_change", args=[token.pk]), reverse("admin:index"), revoke(token)]
    pages.append(reverse("admin:api_apitoken_history", args=[token.pk]))
    assert not any(tail in text(root.get(page, follow=True)) for page in pages)
    assert not any(tail in str(session.get_decoded()) for session in Session.objects.all())
    assert tail not in str(list(LogEntry.objects.values_list()))
    assert tail not in str(root.cookies)
    assert tail not in str(list(ApiToken.objects.values_list()))


def test_sending_the_form_twice_makes_one_token_and_shows_nothing_again(root: Client) -> None:
    fields = {"name": "ci", "scope": "read", "user": User.objects.get().pk, "confirmation": confirmation(root)}
    secret = secret_in(root.post(ADD, fields))

    again = root.post(ADD, fields, follow=True)

    assert ApiToken.objects.count() == 1
    assert secret.split("_", 2)[2] not in text(again)
    assert "was made already" in text(again)


def test_a_direct_post_without_the_page_makes_nothing(root: Client) -> None:
    response = root.post(ADD, {"name": "ci", "scope": "read", "user": User.objects.get().pk})

    assert "too old" in text(response)
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize(
    ("group", "offered"),
    [
        ("viewer", ["read"]),
        ("operator", ["read", "operate", "restore"]),
        ("administrator", ["read", "operate", "restore", "administer"]),
    ],
)
def test_nobody_is_offered_or_given_more_than_they_hold(
    as_: Callable[[str], Client], group: str, offered: list[str]
) -> None:
    client = as_(group)

    assert re.findall(r'<option value="(read|operate|restore|administer)"', text(client.get(ADD))) == offered
    for scope in {"read", "operate", "restore", "administer"} - set(offered):
        make(client, scope=scope)
    assert not ApiToken.objects.exists()


def test_only_administrators_choose_an_owner_and_never_beyond_that_owners_rights(as_: Callable[[str], Client]) -> None:
    other = person("viewer", name="other")
    operator, administrator = as_("operator"), as_("administrator")

    make(operator, user=other.pk)
    assert ApiToken.objects.get().user.username == "operator"

    refused = make(administrator, user=other.pk, scope="operate")
    assert "other may read at most" in text(refused)
    make(administrator, user=other.pk, scope="read")
    assert ApiToken.objects.filter(user=other, scope="read").exists()


def test_others_tokens_are_seen_and_revoked_by_administrators_only(as_: Callable[[str], Client]) -> None:
    token = a_token(person("viewer", name="other"), "hidden-one")
    operator, administrator = as_("operator"), as_("administrator")

    assert "hidden-one" not in text(operator.get(LIST))
    for page in (reverse("admin:api_apitoken_change", args=[token.pk]), revoke(token)):
        assert operator.get(page).status_code == 404
    assert operator.post(revoke(token)).status_code == 404
    token.refresh_from_db()
    assert token.revoked_at is None

    assert "hidden-one" in text(administrator.get(LIST))
    administrator.post(revoke(token))
    token.refresh_from_db()
    assert token.revoked_at is not None


def test_revoking_asks_first_and_changes_nothing_on_get(as_: Callable[[str], Client]) -> None:
    client = as_("viewer")
    token = a_token(User.objects.get(username="viewer"), "nightly")

    asked = client.get(revoke(token))
    token.refresh_from_db()
    assert "This revokes the token nightly" in text(asked)
    assert token.revoked_at is None

    client.post(revoke(token))
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert "Revoked" in text(client.get(LIST))
    assert "revoked already" in text(client.get(revoke(token)))


def test_tokens_are_neither_edited_nor_deleted(root: Client) -> None:
    token = a_token(User.objects.get())
    change = reverse("admin:api_apitoken_change", args=[token.pk])
    delete = reverse("admin:api_apitoken_delete", args=[token.pk])

    root.post(change, {"name": "other", "scope": "administer"})
    assert root.post(delete, {"post": "yes"}).url == revoke(token)

    again = ApiToken.objects.get()
    assert (again.name, again.scope, again.secret_sha256) == (token.name, token.scope, token.secret_sha256)


def test_a_user_with_tokens_can_still_be_deleted(root: Client) -> None:
    user = person("viewer", name="leaver")
    a_token(user)

    root.post(reverse("admin:auth_user_delete", args=[user.pk]), {"post": "yes"})

    assert not User.objects.filter(pk=user.pk).exists()
    assert not ApiToken.objects.exists()


def test_strangers_and_people_without_rights_get_nothing(db: None) -> None:
    token = a_token(person("viewer"))
    nobody = Client()
    nobody.force_login(person(name="without"))

    for client, expected in ((Client(), 302), (nobody, 403)):
        for page in (LIST, ADD, revoke(token)):
            assert client.get(page).status_code == expected
            assert client.post(page).status_code == expected
    token.refresh_from_db()
    assert token.revoked_at is None
    assert ApiToken.objects.count() == 1


def test_writing_needs_the_csrf_token(db: None) -> None:
    user = person("viewer")
    token = a_token(user)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)

    assert client.post(revoke(token)).status_code == 403
    assert client.post(ADD, {"name": "x", "scope": "read"}).status_code == 403
    token.refresh_from_db()
    assert token.revoked_at is None


@pytest.mark.parametrize(
    "fields", [{"name": ""}, {"name": "x" * 101}, {"scope": "all"}, {"expires_days": "0"}, {"expires_days": "99999"},
               {"name": "   "}, {"user": "none"}],
)  # fmt: skip
def test_nonsense_is_said_beside_the_form(root: Client, fields: dict[str, Any]) -> None:
    response = make(root, **{"user": User.objects.get().pk} | fields)

    assert response.status_code == 200
    assert "bm-errors" in text(response) or "bm-notice-bad" in text(response)
    assert not ApiToken.objects.exists()


def test_states_are_told_apart(root: Client) -> None:
    user = User.objects.get()
    gone = person("viewer", name="gone")
    a_token(gone)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    expired = a_token(user)
    ApiToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(days=1))
    a_token(user)

    html = text(root.get(LIST))

    for word in ("Owner inactive", "Expired", "Usable"):
        assert word in html
