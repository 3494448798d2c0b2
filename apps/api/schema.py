"""The schema tells the truth: every JSON answer in its envelope, every error that can come, every scope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

from apps.api.v1.examples import ACCEPTED, ACCEPTED_OPERATION, ANSWERS, BODIES

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

JSON = "application/json"

ERRORS = {
    "400": "Malformed, or not allowed in this state",
    "401": "No credentials, or wrong ones",
    "403": "Not permitted",
    "404": "Unknown",
    "406": "The client does not accept the answer's type",
    "409": "Conflicts with work under way or with what is there",
    "412": "The file is not the one that If-Match names",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "416": "The range lies past the end",
    "422": "Well formed but not acceptable",
    "429": "Too many wrong credentials; Retry-After says when to come back",
    "502": "Qdrant or a storage answered with a fault",
    "503": "Qdrant, a storage or the database cannot be reached",
    "504": "Qdrant did not answer in time",
}
ALWAYS = ("400", "401", "403", "404", "406", "409", "429", "503")
_WITH_BODY = ("413", "415", "422")
_WITH_RANGES = ("412", "416")
_QDRANT = ("409", "422", "502", "503", "504")


class EnvelopeSchema(AutoSchema):
    """drf-spectacular's operation plus envelope, errors, scope and the marks that `operation` left."""

    bare = False

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        for code, response in operation["responses"].items():
            content = response.get("content", {}).get(JSON)
            if content is not None and code.startswith("2") and not self.bare:
                content["schema"] = self._enveloped(content["schema"])
                for example in content.get("examples", {}).values():
                    example["value"] = {"status": "ok", "time": 0.004, "result": example["value"]}
        for code in self._error_codes(operation):
            operation["responses"].setdefault(code, {"description": ERRORS[code], "content": self._error_content()})
        operation["responses"] = dict(sorted(operation["responses"].items()))
        scope = getattr(self.view, "scopes", {}).get(self.method)
        if scope is not None:
            operation["x-scope"] = scope.label
            operation["description"] = f"Needs the scope {scope.label}."
        return operation

    def _error_codes(self, operation: dict[str, Any]) -> list[str]:
        codes = set(ALWAYS)
        if "requestBody" in operation:
            codes.update(_WITH_BODY)
        if "206" in operation["responses"]:
            codes.update(_WITH_RANGES)
        if getattr(self.view, "reaches_qdrant", False):
            codes.update(_QDRANT)
        return sorted(codes)

    def _enveloped(self, result: dict[str, Any]) -> dict[str, Any]:
        envelope = {
            "type": "object",
            "properties": {"status": {"type": "string", "enum": ["ok"]}, "time": _SECONDS, "warnings": _WARNINGS},
            "required": ["status", "time"],
        }
        own = {"type": "object", "properties": {"result": result}, "required": ["result"]}
        return {"allOf": [self._component("Envelope", envelope), own]}

    def _error_content(self) -> dict[str, Any]:
        sentence = {"type": "string", "description": "One sentence a person can act on"}
        status = {"type": "object", "properties": {"error": sentence}, "required": ["error"]}
        error = {
            "type": "object",
            "properties": {"status": status, "time": _SECONDS},
            "required": ["status", "time"],
        }
        return {JSON: {"schema": self._component("Error", error)}}

    def _component(self, name: str, schema: dict[str, Any]) -> dict[str, Any]:
        component = ResolvedComponent(name=name, type=ResolvedComponent.SCHEMA, object=name, schema=schema)
        self.registry.register_on_missing(component)
        reference: dict[str, Any] = component.ref
        return reference


_WARNINGS = {
    "type": "array",
    "items": {"type": "string"},
    "description": "What the result lacks, in sentences: nodes that could not be asked. Left out when it is complete",
}
_SECONDS = {"type": "number", "format": "double", "description": "Seconds that the answer took"}


class BareSchema(EnvelopeSchema):
    """For the operation whose answer has no envelope."""

    bare = True


def _examples(operation_id: str, *, accepted: bool) -> list[OpenApiExample]:
    """Return the examples of bodies and answers that examples.py has for the operation."""
    bodies = [OpenApiExample(title, value, request_only=True) for title, value in BODIES.get(operation_id, {}).items()]
    answers = {"200": ANSWERS[operation_id]} if operation_id in ANSWERS else {}
    if accepted:
        answers["202"] = ACCEPTED.get(operation_id, ACCEPTED_OPERATION)
    return bodies + [
        OpenApiExample("Success" if code == "200" else "Accepted", value, response_only=True, status_codes=[code])
        for code, value in answers.items()
    ]


_WHERE = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, required=True, response=[202], description="Where its outcome stands"
)


def operation(
    operation_id: str,
    summary: str,
    *,
    tag: str,
    answer: Any = None,
    body: type[serializers.Serializer[Any]] | None = None,
    query: list[type[serializers.Serializer[Any]]] | None = None,
    path: dict[str, type | dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
    also: dict[int | tuple[int, str], Any] | None = None,
    bare: bool = False,
) -> Callable[[_Handler], _Handler]:
    """Describe a view's method: `answer` is the serializer of `result` on 200, `also` holds other 2xx and 3xx codes.

    `path` gives types to path parameters that are no plain strings; `headers` are optional ones, with what they mean.
    """

    def decorate(handler: _Handler) -> _Handler:
        handler.schema = BareSchema if bare else EnvelopeSchema  # type: ignore[attr-defined]
        parameters: list[Any] = list(query or [])
        for name, kind in (path or {}).items():
            parameters.append(OpenApiParameter(name, kind, OpenApiParameter.PATH))
        for name, words in (headers or {}).items():
            parameters.append(OpenApiParameter(name, str, OpenApiParameter.HEADER, description=words))
        responses: dict[Any, Any] = {} if answer is None else {200: answer}
        responses.update(also or {})
        if 202 in responses:
            parameters.append(_WHERE)
        described: _Handler = extend_schema(
            operation_id=operation_id,
            summary=summary,
            tags=[tag],
            request=body,
            parameters=parameters,
            responses=responses,
            examples=_examples(operation_id, accepted=202 in responses),
        )(handler)
        described.operation_id = operation_id  # type: ignore[attr-defined]
        return described

    return decorate


#: `result: true` or `result: false`.
WHETHER = OpenApiResponse({"type": "boolean"}, description="Whether it is done")
#: `result: true`.
TRUE = OpenApiResponse({"type": "boolean", "enum": [True]}, description="Done")
