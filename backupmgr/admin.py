"""People in the same look as everything else; the queue's own tables are nobody's business and leave the menu."""

from __future__ import annotations

from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Count, Model
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from apps.core.admin_cells import NOTHING
from apps.core.admin_kit import ConsoleAdmin
from apps.core.permissions import GROUP_PERMISSIONS

admin.site.unregister(User)
admin.site.unregister(Group)
for model in apps.get_app_config("django_q").get_models():
    if admin.site.is_registered(model):
        admin.site.unregister(model)


class PermissionChoice(forms.ModelMultipleChoiceField):
    """Permissions by what they allow, each with a box to tick."""

    def label_from_instance(self, obj: Model) -> str:
        return str(obj.name)  # type: ignore[attr-defined]


class GroupForm(forms.ModelForm):
    """A group and what it may do: the permissions that mean something here, and none of Django's other hundred."""

    permissions = PermissionChoice(
        Permission.objects.none(),
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What its members may do. viewer, operator and administrator are made again at every upgrade.",
    )

    class Meta:
        model = Group
        fields = ["name", "permissions"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = {name for names in GROUP_PERMISSIONS.values() for name in names}
        rows = Permission.objects.select_related("content_type").order_by("content_type__app_label", "codename")
        keys = [row.pk for row in rows if f"{row.content_type.app_label}.{row.codename}" in known]
        if self.instance.pk:
            keys += self.instance.permissions.values_list("pk", flat=True)
        self.fields["permissions"].queryset = rows.filter(pk__in=keys)  # type: ignore[attr-defined]


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ConsoleAdmin):  # type: ignore[misc]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "roles", "is_active", "is_superuser", "last_login"]
    list_filter = ["is_active", "is_superuser", "groups"]
    filter_horizontal = ()
    fieldsets = [
        (None, {"fields": ["username", "password", "first_name", "last_name", "email"]}),
        ("What this person may do", {"fields": ["is_active", "is_staff", "groups", "is_superuser"]}),
    ]
    add_fieldsets = [
        (None, {"fields": ["username", "usable_password", "password1", "password2", "is_staff", "groups"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="Groups")
    def roles(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all()) or NOTHING

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        words = {
            "is_staff": "Can sign in to these pages. Without it a person can only use API tokens.",
            "is_superuser": "May do everything, whatever the groups say.",
            "groups": "viewer looks, operator also backs up and restores, administrator also changes what there is.",
        }
        for name, help_text in words.items():
            if name in form.base_fields:
                form.base_fields[name].help_text = help_text
        return form

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups":
            kwargs["widget"] = UnfoldAdminCheckboxSelectMultipleWidget
            kwargs["required"] = False
            return db_field.formfield(**kwargs)
        return super().formfield_for_manytomany(db_field, request, **kwargs)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ConsoleAdmin):  # type: ignore[misc]
    form = GroupForm
    filter_horizontal = ()
    list_display = ["name", "members"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(member_count=Count("user"))

    @admin.display(description="Members")
    def members(self, group: Any) -> int:
        return int(group.member_count)
