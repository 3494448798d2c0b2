"""What Django itself reports: forms saved in the admin, and people who sign in and out."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import post_save

from apps.audit.models import Outcome
from apps.audit.trail import About, current_call, record_action


def connect() -> None:
    """Called once, when the app is ready."""
    post_save.connect(form_saved, sender=LogEntry, dispatch_uid="audit.form_saved")
    user_logged_in.connect(signed_in, dispatch_uid="audit.signed_in")
    user_logged_out.connect(signed_out, dispatch_uid="audit.signed_out")
    user_login_failed.connect(sign_in_failed, dispatch_uid="audit.sign_in_failed")


def form_saved(instance: LogEntry, created: bool, raw: bool = False, **kwargs: Any) -> None:
    """Django notes what a form of the admin added, changed or deleted; its message names fields, never values."""
    if not created or raw or instance.content_type is None:
        return
    kind = instance.content_type.model
    call = current_call.get()
    if call is not None and (kind, str(instance.object_id)) in call.told:
        return  # a service has told it already, and better
    verb = {ADDITION: "add", DELETION: "delete"}.get(instance.action_flag, "change")
    words = f"{'Deleted' if verb == 'delete' else 'Added' if verb == 'add' else 'Changed'} {instance.content_type.name}"
    details = instance.get_change_message() if verb == "change" else ""
    record_action(
        f"{kind}.{verb}",
        f"{words} {instance.object_repr}.{f' {details}' if details else ''}",
        about=About(kind, str(instance.object_id), instance.object_repr),
        user=instance.user,
    )


def signed_in(user: Any, **kwargs: Any) -> None:
    record_action("session.begin", "Signed in to the admin.", about=user, user=user)


def signed_out(user: Any, **kwargs: Any) -> None:
    if user is not None:
        record_action("session.end", "Signed out of the admin.", about=user, user=user)


def sign_in_failed(credentials: dict[str, Any], **kwargs: Any) -> None:
    """Only for names that exist: made-up ones would fill the table, and may be a password typed in the wrong field."""
    name = str(credentials.get("username") or "")
    known = get_user_model().objects.filter(username=name).first() if "\x00" not in name else None
    if known is not None:
        record_action("session.fail", "Failed to sign in to the admin.", about=known, outcome=Outcome.REFUSED)
