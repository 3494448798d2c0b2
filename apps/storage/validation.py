"""What makes a storage acceptable: the fields of its type, an endpoint that is one, a folder inside the roots."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from apps.core.outbound import AddressRefused, current_policy, host_of, split_url

if TYPE_CHECKING:
    from apps.storage.models import StorageConfig

# Bucket names as S3 has them, and underscores and capitals that older ones and compatibles still carry.
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")


def check_config(config: StorageConfig) -> dict[str, str]:
    """Return field → sentence for everything that is wrong with the storage; empty when it is acceptable."""
    if problems := _check_texts(config):
        return problems
    if config.type == "local":
        return _check_local(config)
    if config.type == "s3":
        return _check_s3(config)
    return {"type": "Choose local (a folder) or s3."}


def _check_texts(config: StorageConfig) -> dict[str, str]:
    """Find what no database, path, header or log line should hold: control characters and halves of characters."""
    problems = {}
    for field in ("name", "path", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_prefix", "ca"):
        text = getattr(config, field)
        allowed = "\n\r\t" if field == "ca" else ""
        if any((ord(c) < 32 and c not in allowed) or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
            problems[field] = f"The {field.removeprefix('s3_').replace('_', ' ')} must not contain control characters."
    return problems


def _check_local(config: StorageConfig) -> dict[str, str]:
    if not config.path:
        return {"path": "A folder storage needs a path."}
    try:
        resolve_folder(config.path)
    except ValueError as error:
        return {"path": str(error)}
    return {}


def _check_s3(config: StorageConfig) -> dict[str, str]:
    problems = {
        field: f"An S3 storage needs {words}."
        for field, words in (
            ("s3_endpoint", "an endpoint"),
            ("s3_bucket", "a bucket"),
            ("s3_region", "a region"),
            ("s3_access_key", "an access key"),
            ("s3_secret_key", "a secret key"),
        )
        if not getattr(config, field)
    }
    if config.s3_endpoint and (reason := _endpoint_problem(config.s3_endpoint)):
        problems["s3_endpoint"] = reason
    if config.s3_bucket and not _BUCKET.match(config.s3_bucket):
        problems["s3_bucket"] = "A bucket name has 3 to 63 letters, digits, dots, hyphens or underscores."
    pieces = config.s3_prefix.split("/")
    if any(piece in ("..", ".") for piece in pieces) or any(ord(c) < 32 or c == "\\" for c in config.s3_prefix):
        problems["s3_prefix"] = "The prefix must not contain '.', '..', backslashes or control characters."
    if config.ca.strip() and not _is_pem(config.ca):
        problems["ca"] = "The CA certificate must be PEM text: -----BEGIN CERTIFICATE----- and so on."
    return problems


def _is_pem(text: str) -> bool:
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _endpoint_problem(endpoint: str) -> str | None:
    """Return what is wrong with an endpoint. Its name is not looked up here: every connection to it is checked."""
    if not endpoint.lower().startswith(("http://", "https://")):
        return "Write the endpoint as https://host or http://host:port."
    try:
        parts = split_url(endpoint)
        current_policy().check_host(host_of(parts))
    except AddressRefused as error:
        return f"The endpoint cannot be used: {error}"
    if parts.query or parts.fragment:
        return "The endpoint must have no query and no fragment."
    return None


def resolve_folder(path: str) -> Path:
    """Return the folder with links resolved, once it is known to lie inside an allowed root.

    Raises: ValueError with a sentence.
    """
    if "\x00" in path or not Path(path).is_absolute():
        raise ValueError("The path of a folder storage must be absolute.")
    try:
        resolved = Path(path).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ValueError("The path of the folder cannot be followed: check the links in it.") from error
    roots = [Path(root).resolve() for root in settings.BACKUPMGR_LOCAL_ROOTS]
    if not any(resolved == root or root in resolved.parents for root in roots):
        allowed = " or ".join(str(root) for root in roots)
        raise ValueError(f"Folder storages must lie below {allowed} (setting BACKUPMGR_LOCAL_ROOTS).")
    return resolved
