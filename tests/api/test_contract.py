"""The generated schema is a superset of the contract, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

CONTRACT = yaml.safe_load((Path(__file__).parent.parent / "contract" / "manager-api.yaml").read_text())
METHODS = ("get", "post", "put", "delete")
KEPT = ("type", "format", "default", "minimum", "maximum", "nullable")

OPERATIONS = [(path, method) for path, item in CONTRACT["paths"].items() for method in METHODS if method in item]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow $ref and merge allOf, one level deep: what is below stays as it is."""
    if "$ref" in schema:
        target: Any = document
        for piece in schema["$ref"].removeprefix("#/").split("/"):
            target = target[piece]
        return resolved(document, target) | {k: v for k, v in schema.items() if k != "$ref"}
    if "allOf" not in schema:
        return schema
    merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
    for piece in schema["allOf"]:
        part = resolved(document, piece)
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", []), *part.get("required", [])]
        merged = {**part, **merged}
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
    return merged


def parameters(document: dict[str, Any], path: str, method: str) -> dict[tuple[str, str], dict[str, Any]]:
    item = document["paths"][path]
    found = [resolved(document, p) for p in [*item.get("parameters", []), *item[method].get("parameters", [])]]
    return {(p["in"], p["name"]): p for p in found}


def check(wanted: Any, ours: Any, schema: dict[str, Any], where: str, *, request: bool) -> None:
    """Compare one schema of the contract with ours, and everything below it."""
    wanted, ours = resolved(CONTRACT, wanted), resolved(schema, ours)
    for key in KEPT:
        if key in wanted:
            assert ours.get(key) == wanted[key], f"{where}: {key} is {ours.get(key)!r}, not {wanted[key]!r}"
    if not request:
        assert not (ours.get("nullable") and wanted.get("type") and not wanted.get("nullable")), f"{where}: null"
    if "enum" in wanted:
        assert set(ours.get("enum", [])) >= set(wanted["enum"]), where
    for name, below in wanted.get("properties", {}).items():
        assert name in ours.get("properties", {}), f"{where}.{name} is missing"
        check(below, ours["properties"][name], schema, f"{where}.{name}", request=request)
    if request:
        extra = set(ours.get("required", [])) - set(wanted.get("required", []))
        assert not extra, f"{where}: the contract does not require {extra}"
    for name in wanted.get("required", []):
        assert name in ours.get("required", []), f"{where}: {name} is required"
    if "items" in wanted:
        check(wanted["items"], ours["items"], schema, f"{where}[]", request=request)
    if isinstance(wanted.get("additionalProperties"), dict):
        check(wanted["additionalProperties"], ours["additionalProperties"], schema, f"{where}.*", request=request)


def test_servers_are_the_contracts(schema: dict[str, Any]) -> None:
    assert schema["servers"] == CONTRACT["servers"]


def test_contract_has_the_operations_this_test_believes_in() -> None:
    assert len(OPERATIONS) == 26


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_operation_is_there_under_its_name(schema: dict[str, Any], path: str, method: str) -> None:
    ours = schema["paths"][path][method]

    assert ours["operationId"] == CONTRACT["paths"][path][method]["operationId"]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_parameters_are_the_contracts(schema: dict[str, Any], path: str, method: str) -> None:
    ours = parameters(schema, path, method)

    for key, wanted in parameters(CONTRACT, path, method).items():
        assert key in ours, key
        assert ours[key].get("required", False) == wanted.get("required", False), key
        check(wanted["schema"], ours[key]["schema"], schema, f"{path} {key}", request=True)
    new = {key for key, ours in ours.items() if ours.get("required")} - set(parameters(CONTRACT, path, method))
    assert not new, f"new required parameters: {new}"


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_request_body_is_the_contracts(schema: dict[str, Any], path: str, method: str) -> None:
    body = CONTRACT["paths"][path][method].get("requestBody")
    ours = schema["paths"][path][method].get("requestBody")
    if body is None:
        assert ours is None
        return
    wanted = resolved(CONTRACT, body)["content"]["application/json"]["schema"]

    check(wanted, ours["content"]["application/json"]["schema"], schema, f"{path} {method}", request=True)
    for name, below in resolved(CONTRACT, wanted).get("properties", {}).items():
        if below.get("writeOnly"):
            shown = resolved(schema, ours["content"]["application/json"]["schema"])["properties"][name]
            assert shown.get("writeOnly"), name


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_responses_are_the_contracts(schema: dict[str, Any], path: str, method: str) -> None:
    for code, response in CONTRACT["paths"][path][method]["responses"].items():
        ours = schema["paths"][path][method]["responses"][code]
        content = resolved(CONTRACT, response).get("content")
        if content is not None:
            wanted = content["application/json"]["schema"]
            shown = ours["content"]["application/json"]["schema"]
            check(wanted, shown, schema, f"{path} {method} {code}", request=False)


def test_downloads_and_metrics_are_described_as_what_they_are(schema: dict[str, Any]) -> None:
    download = schema["paths"]["/collections/{name}/snapshots/{snapshotName}"]["get"]["responses"]
    metrics = schema["paths"]["/metrics"]["get"]["responses"]

    assert set(download["200"]["content"]) == set(download["206"]["content"]) == {"application/octet-stream"}
    assert set(metrics["200"]["content"]) == {"text/plain"}


def test_every_operation_describes_its_errors_and_its_scope(schema: dict[str, Any]) -> None:
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            assert {"400", "401", "403", "404"} <= set(operation["responses"]), (path, method)
            assert operation["x-scope"] in ("read", "operate", "restore", "administer")
            assert operation["summary"]
            assert {"apiKey": []} in operation["security"]
            assert {"bearer": []} in operation["security"]
