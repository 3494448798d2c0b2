"""ApiView: what every operation of the API shares."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.http import HttpRequest
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.api.envelope import Negotiation, start_clock
from apps.api.parsers import LimitedJsonParser
from apps.core.permissions import Scope

#: Methods that an operation can have; HEAD comes with GET.
METHODS = ("GET", "POST", "PUT", "DELETE")


class ApiView(APIView):
    """Base of all views. Subclasses declare `scopes`, and describe their methods with `schema.operation`."""

    #: The scope that each method needs; nothing is open that does not stand here.
    scopes: ClassVar[dict[str, Scope]] = {}
    #: Open to everybody, without a scope. For addresses that give nothing away.
    public: ClassVar[bool] = False
    #: Whether BACKUPMGR_ANONYMOUS_READ opens the READ methods.
    allow_anonymous: ClassVar[bool] = True
    #: Whether the operation asks a Qdrant node: its errors are part of the description then.
    reaches_qdrant: ClassVar[bool] = False
    #: A POST that only looks: the audit trail leaves it out.
    changes_nothing: ClassVar[bool] = False

    http_method_names = ["get", "post", "put", "delete", "head"]
    parser_classes = [LimitedJsonParser]
    content_negotiation_class = Negotiation

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        start_clock(request)
        return super().initialize_request(request, *args, **kwargs)

    def body(self, serializer: type[serializers.Serializer[Any]], **options: Any) -> dict[str, Any]:
        """Return the validated JSON body. Raises: ValidationError, ParseError."""
        return _validated(serializer, self.request.data, **options)

    def query(self, serializer: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """Return the validated query parameters; of a repeated one the last counts. Raises: ValidationError."""
        return _validated(serializer, self.request.query_params.dict())

    def path_uuid(self) -> uuid.UUID:
        """Return the id in the path. Raises: NotFound when it is no UUID, since nothing has such an id."""
        try:
            return uuid.UUID(self.kwargs["id"])
        except ValueError:
            raise NotFound("There is nothing with this id: ids are UUIDs.") from None


def _validated(serializer: type[serializers.Serializer[Any]], data: Any, **options: Any) -> dict[str, Any]:
    bound = serializer(data=data, **options)
    bound.is_valid(raise_exception=True)
    validated: dict[str, Any] = bound.validated_data
    return validated


class UnknownPath(ApiView):
    """Everything below /api/v1 that is no operation: 404, for every method and for everybody."""

    public = True
    schema = None
    authentication_classes = []
    permission_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound("There is no such operation: /api/v1/docs lists them.")
