"""API tokens: list, create (the secret is shown once), revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import IntegerField, TextField, TimeField, token_scope
from apps.api.models import ApiToken
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.services import create_token, revoke_token
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.core.permissions import Scope

TAG = "tokens"


class TokenSerializer(serializers.Serializer[Any]):
    """A token without its secret."""

    id = serializers.CharField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="Part of the secret, to tell tokens apart")
    scope = token_scope()
    user = serializers.CharField(source="user.get_username", help_text="Owner; it can never do more than this person")
    created_at = TimeField()
    expires_at = TimeField(allow_null=True)
    last_used_at = TimeField(allow_null=True)
    revoked_at = TimeField(allow_null=True)


class NewTokenSerializer(TokenSerializer):
    """A token just made; `token` is shown this once."""

    token = serializers.CharField()


class TokenCreateSerializer(serializers.Serializer[Any]):
    """A token for the caller."""

    name = TextField(max_length=100, help_text="What uses it")
    scope = token_scope()
    expires_days = IntegerField(required=False, min_value=1, max_value=36500, help_text="Never when left out")


class TokenPageSerializer(PageSerializer):
    """A page of tokens."""

    items = TokenSerializer(many=True)


class TokensView(ApiView):
    scopes = {"GET": Scope.ADMINISTER, "POST": Scope.ADMINISTER}

    @operation("listTokens", "Everybody's tokens, newest first", tag=TAG, query=[PageQuery], answer=TokenPageSerializer)
    def get(self, request: Request) -> Response:
        rows = ApiToken.objects.select_related("user")
        return Response(TokenPageSerializer(read_page(rows, self.query(PageQuery))).data)

    @operation(
        "createToken",
        "Create a token for oneself; its secret is in this answer and nowhere else",
        tag=TAG,
        body=TokenCreateSerializer,
        answer=NewTokenSerializer,
    )
    def post(self, request: Request) -> Response:
        data = self.body(TokenCreateSerializer)
        now = timezone.now()
        token, secret = create_token(
            user=caller(request),
            name=data["name"],
            scope=Scope[data["scope"].upper()],
            now=now,
            expires_at=now + timedelta(days=data["expires_days"]) if "expires_days" in data else None,
        )
        return Response({**TokenSerializer(token).data, "token": secret})


class TokenView(ApiView):
    scopes = {"DELETE": Scope.ADMINISTER}

    @operation("revokeToken", "Revoke a token", tag=TAG, answer=TRUE)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        revoke_token(token_id=self.path_uuid(), now=timezone.now())
        return Response(True)
