"""Pages: 1-based, at most 100 rows, in a stable order, as fast at the end of the list as at its beginning."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import serializers

from apps.api.fields import EnumField, TimeField

_Row = TypeVar("_Row", bound=Model)

NEWEST_FIRST = "-created_at"


class PageQuery(serializers.Serializer[Any]):
    """The parameters of every list that has pages."""

    page = serializers.IntegerField(required=False, min_value=1, default=1)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=100, default=20)
    sort = EnumField("SortByTime", [NEWEST_FIRST, "created_at"], required=False, default=NEWEST_FIRST)
    created_after = TimeField(required=False, help_text="At or after this time")
    created_before = TimeField(required=False, help_text="Before this time")


class PageSerializer(serializers.Serializer[Any]):
    """A page; subclasses add `items`."""

    total = serializers.IntegerField(min_value=0, help_text="Rows on all pages")
    page = serializers.IntegerField(min_value=1)
    limit = serializers.IntegerField(min_value=1, max_value=100)


def read_page(rows: QuerySet[_Row], query: dict[str, Any]) -> dict[str, Any]:
    """Return {"items", "total", "page", "limit"} of the rows, in three database queries.

    Ids are read first, from the index alone; whole rows are then fetched for one page only, so that a page far
    down the list costs no more than the index entries before it.
    """
    if "created_after" in query:
        rows = rows.filter(created_at__gte=query["created_after"])
    if "created_before" in query:
        rows = rows.filter(created_at__lt=query["created_before"])
    direction = "-" if query["sort"] == NEWEST_FIRST else ""
    order = (f"{direction}created_at", f"{direction}id")
    page, limit = query["page"], query["limit"]
    total = rows.count()
    first = (page - 1) * limit
    items: list[_Row] = []
    if first < total:
        ids = list(rows.order_by(*order).values_list("pk", flat=True)[first : first + limit])
        items = list(rows.filter(pk__in=ids).order_by(*order))
    return {"items": items, "total": total, "page": page, "limit": limit}
