"""A StorageConfig row becomes a configured Django storage backend: FileSystemStorage or django-storages' S3Storage.

The backends hold the configuration (client, bucket, location, addresses); the bytes of backups go through the stores'
own sinks and sources, because `backend.open` would take whole objects into memory and publish truncated ones.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.files.storage import FileSystemStorage

from apps.storage.errors import StorageDenied, StorageFault, StorageRefused
from apps.storage.models import StorageConfig
from apps.storage.validation import resolve_folder

if TYPE_CHECKING:
    from storages.backends.s3 import S3Storage

# A backup holds everything that is in a collection: nobody but the service's own user may read it.
FILE_MODE = 0o600
FOLDER_MODE = 0o700


@dataclass(frozen=True)
class Patience:
    """How long calls to an S3 endpoint may take. `attempts` includes the first."""

    connect_seconds: float
    read_seconds: float
    attempts: int
    #: How long an upload waits for an endpoint that is away before it is given up.
    outage_seconds: float = 0.0


#: For a connection test that somebody waits for.
PROBE_PATIENCE = Patience(connect_seconds=4, read_seconds=6, attempts=1)


def work_patience() -> Patience:
    """Return the patience of jobs."""
    return Patience(
        connect_seconds=10,
        read_seconds=settings.BACKUPMGR_STALL_SECONDS,
        attempts=5,
        outage_seconds=settings.BACKUPMGR_OUTAGE_SECONDS,
    )


def folder_backend(config: StorageConfig) -> FileSystemStorage:
    """Return the backend of a folder storage. The folder need not exist.

    Raises: StorageDenied when the path, links resolved, lies outside the allowed roots: looked at anew each time,
    because a folder that was fine when it was saved may have become a link since.
    """
    try:
        folder = resolve_folder(config.path)
    except ValueError as error:
        raise StorageDenied(f"The folder {config.path!r} cannot be used. {error}") from error
    return FileSystemStorage(
        location=folder,
        file_permissions_mode=FILE_MODE,
        directory_permissions_mode=FOLDER_MODE,
        allow_overwrite=False,
    )


def bucket_backend(config: StorageConfig, patience: Patience) -> S3Storage:
    """Return the backend of an S3 storage. No connection is made.

    Raises: crypto.UndecryptableSecret; StorageRefused when the CA certificate is none.
    """
    # boto3 takes a third of a second to import: only what talks to S3 pays for it.
    from botocore.config import Config

    from apps.storage.s3_backend import IsolatedS3Storage

    addressing: Any = str(config.s3_addressing_style)
    return IsolatedS3Storage(
        access_key=config.s3_access_key,
        secret_key=config.s3_secret_key.reveal(),
        security_token=None,
        session_profile=None,
        bucket_name=config.s3_bucket,
        region_name=config.s3_region,
        endpoint_url=config.s3_endpoint,
        location="/".join(piece for piece in config.s3_prefix.split("/") if piece),
        use_ssl=config.s3_endpoint.startswith("https://"),
        verify=_verify(config),
        file_overwrite=False,
        object_parameters={"ContentType": "application/octet-stream"},
        default_acl=None,
        querystring_auth=True,
        querystring_expire=3600,
        custom_domain=None,
        cloudfront_signer=None,
        gzip=False,
        proxies=None,
        # With a client_config these two are ignored; they are named so that no Django setting seems to matter.
        signature_version="s3v4",
        addressing_style=addressing,
        client_config=Config(
            # Presigned addresses default to the old signature in us-east-1, which compatibles refuse.
            signature_version="s3v4",
            s3={
                "addressing_style": addressing,
                # On plain HTTP every body would be hashed once more, for the signature; CRC32 headers do that job.
                "payload_signing_enabled": False,
                "use_accelerate_endpoint": False,
            },
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            # By default botocore adds checksum trailers that older compatibles refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Several sinks of several threads share one client.
            max_pool_connections=32,
            connect_timeout=patience.connect_seconds,
            read_timeout=patience.read_seconds,
            tcp_keepalive=True,
        ),
    )


def _verify(config: StorageConfig) -> bool | str:
    """Return botocore's `verify`: never None, for that would let AWS_CA_BUNDLE decide."""
    if not config.verify_tls:
        return False
    return str(_ca_file(config.ca)) if config.ca.strip() else True


def _ca_file(pem: str) -> Path:
    """Return a file that holds `pem`; botocore reads it at every new connection, so it has to stay.

    It lies in the data folder under the hash of its content: written once, safe with several processes, and nothing
    to clean up. Raises: StorageRefused; StorageFault when it cannot be written.
    """
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise StorageRefused("The storage's CA certificate is not valid PEM: paste it again.") from error
    content = pem.encode()
    file = Path(settings.DATA_DIR) / "ca" / f"{hashlib.sha256(content).hexdigest()}.pem"
    try:
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            Path(temporary).replace(file)
    except OSError as error:
        raise StorageFault(
            f"The CA certificate cannot be written below {file.parent}: {error.strerror}. Check the data folder."
        ) from error
    return file
