"""What every page of the admin shares: titles of its own, read-only facts, own pages, refusal by permission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from unfold.admin import ModelAdmin

from apps.core.permissions import SCOPE_PERMISSIONS, Scope

Crumb = tuple[str, str]


def may(request: HttpRequest, scope: Scope) -> bool:
    """Tell whether the signed-in person has that scope."""
    return request.user.has_perm(SCOPE_PERMISSIONS[scope])


def demand(request: HttpRequest, *permissions: str) -> None:
    """Raises: PermissionDenied (403) unless the person holds every one of them."""
    if not request.user.has_perms(permissions):
        raise PermissionDenied


def person(request: HttpRequest) -> AbstractBaseUser | None:
    """The signed-in person, None for a stranger."""
    return request.user if isinstance(request.user, AbstractBaseUser) else None


class ConsoleAdmin(ModelAdmin):
    """A page of the console: lists say what they list, objects are called by their own name."""

    #: Mutating actions are pages of their own with a POST form: unfold's and Django's list actions are left out.
    actions = None
    list_per_page = 50
    list_fullwidth = True
    show_full_result_count = False
    #: What an empty list says: a heading, and a sentence with the next step.
    empty_title = "Nothing here yet"
    empty_text = ""

    def own_urls(self) -> Sequence[tuple[str, str, Callable[..., HttpResponseBase]]]:
        """Return (route, URL name, view) of this admin's own pages."""
        return []

    def get_urls(self) -> list[URLPattern]:
        own = [path(route, self._wrapped(view), name=name) for route, name, view in self.own_urls()]
        return own + super().get_urls()

    def _wrapped(self, view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        def wrapper(*args: Any, **kwargs: Any) -> HttpResponseBase:
            return self.admin_site.admin_view(view)(*args, **kwargs)

        return update_wrapper(wrapper, view)

    @property
    def list_url(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def object_url(self, obj: Model) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[obj.pk])

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": capfirst(str(self.opts.verbose_name_plural)), "subtitle": None}
        response = super().changelist_view(request, context | (extra_context or {}))
        shown = getattr(response, "context_data", None)
        if shown is not None and "cl" in shown:
            shown["list_filters"] = [_menu(spec, list(spec.choices(shown["cl"]))) for spec in shown["cl"].filter_specs]
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        # One way on: the list, where "Add" is. Which of three buttons to take is no question worth asking.
        shared = {"show_save_and_add_another": False, "show_save_and_continue": False}
        response = super().changeform_view(request, object_id, form_url, shared | (extra_context or {}))
        context = getattr(response, "context_data", None)
        if context is not None and "adminform" in context:
            original = context.get("original")
            context["title"] = str(original) if original else f"Add {self.opts.verbose_name}"
            context["subtitle"] = None
            context["crumbs"] = self.crumbs()
        return response

    def response_add(self, request: HttpRequest, obj: Model, post_url_continue: str | None = None) -> HttpResponse:
        if IS_POPUP_VAR in request.POST:
            return super().response_add(request, obj, post_url_continue)
        return self._saved(request, obj)

    def response_change(self, request: HttpRequest, obj: Model) -> HttpResponse:
        if IS_POPUP_VAR in request.POST:
            return super().response_change(request, obj)
        return self._saved(request, obj)

    def _saved(self, request: HttpRequest, obj: Model) -> HttpResponse:
        """Stay with what was saved: its page holds what to do next."""
        messages.success(request, f"Saved {obj}.")
        return HttpResponseRedirect(self.object_url(obj) if self.has_view_permission(request, obj) else self.list_url)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What was done to it stands in the audit trail, by admin and by API."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        trail = reverse("admin:audit_auditentry_changelist")
        return HttpResponseRedirect(f"{trail}?{urlencode({'q': object_id})}")

    def crumbs(self) -> list[Crumb]:
        return [(capfirst(str(self.opts.verbose_name_plural)), self.list_url)]

    def object_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows that `find` looks in, with what an object's page needs of other tables."""
        return self.get_queryset(request)

    def find(self, request: HttpRequest, object_id: str) -> Any:
        """Return the object, None when there is none (any more): then answer with `gone`.

        Raises: PermissionDenied when the person may not see it.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            return self.object_queryset(request).filter(pk=object_id).first()
        except (ValueError, ValidationError):
            return None

    def gone(self, request: HttpRequest, what: str = "", ways: list[Crumb] | None = None) -> HttpResponse:
        """Say with 404 that what was asked for is not (any more), and where to go on: (words, address) each."""
        plural = capfirst(str(self.opts.verbose_name_plural))
        return self.page(
            request,
            "admin/gone.html",
            title=f"This {what or self.opts.verbose_name} does not exist",
            sentences=["It may have been deleted meanwhile, or the address was cut off."],
            ways=[*(ways or []), (f"All {plural.lower()}", self.list_url), ("Overview", reverse("admin:index"))],
            status=404,
        )

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        return self.gone(request)

    def page(
        self,
        request: HttpRequest,
        template: str,
        *,
        title: str,
        crumbs: list[Crumb] | None = None,
        status: int = 200,
        **context: Any,
    ) -> TemplateResponse:
        """Render a page of our own inside the admin's frame."""
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "title": title,
            "subtitle": None,
            "crumbs": self.crumbs() if crumbs is None else crumbs,
        }
        return TemplateResponse(request, template, shared | context, status=status)

    def confirm(
        self,
        request: HttpRequest,
        *,
        title: str,
        sentences: list[str],
        verb: str,
        back: str,
        crumbs: list[Crumb] | None = None,
        danger: bool = False,
        keep: str = "Back",
        warnings: list[str] | None = None,
        hidden: list[tuple[str, str]] | None = None,
        typed_name: str = "",
        error: str = "",
        status: int = 200,
    ) -> TemplateResponse:
        """Render the page that names what is about to happen. It POSTs to the address it stands at.

        An empty `verb` leaves the button out: what was asked for cannot be done, and the sentences say why. With
        `typed_name` the person has to type that name into the field `typed_name`.
        """
        return self.page(
            request,
            "admin/confirm.html",
            title=title,
            crumbs=crumbs,
            sentences=sentences,
            warnings=warnings or [],
            verb=verb,
            danger=danger,
            back=back,
            keep=keep,
            hidden=hidden or [],
            typed_name=typed_name,
            error=error,
            status=status,
        )


def _menu(spec: Any, choices: list[Any]) -> tuple[Any, list[Any], str]:
    """Return a filter, its choices, and the words of the one that is chosen (empty for "all")."""
    return spec, choices, next((str(choice["display"]) for choice in choices[1:] if choice["selected"]), "")


class FactAdmin(ConsoleAdmin):
    """Facts, not forms: nothing is added, edited or deleted by hand. Subclasses render `detail_view`."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        found = self.find(request, object_id)
        if found is None:
            return self.gone(request)
        return self.detail_view(request, found)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Facts are never edited here, so there is no history of edits: lead to the object."""
        found = self.find(request, object_id)
        return self.gone(request) if found is None else HttpResponseRedirect(self.object_url(found))

    def detail_view(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Render the page of one object. Raises: ImproperlyConfigured where a subclass has none."""
        raise ImproperlyConfigured(f"{type(self).__name__} renders no detail page.")
