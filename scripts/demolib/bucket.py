"""A bucket on a real S3 server of the demo's own."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import s3server

from .errors import DemoError

_PREFIX = "demo"
_BLOCK = 1024 * 1024


class Bucket:
    """A running S3 server with an empty bucket; `stack` ends it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Start the server. Raises: DemoError."""
        self._server = s3server.S3Server(folder)
        stack.callback(self._server.stop)
        try:
            self._server.start()
        except s3server.S3ServerMissing as error:
            raise DemoError("There is no S3 server here: scripts/setup sandbox s3server installs it.") from error
        except (RuntimeError, OSError) as error:
            raise DemoError(f"The S3 server did not start: see {folder / 'log'}.") from error
        self.endpoint = self._server.endpoint

    def storage_config(self) -> dict[str, Any]:
        """Return the body of POST /storage/config for this bucket."""
        return {
            "name": "s3",
            "type": "s3",
            "s3_endpoint": self._server.endpoint,
            "s3_bucket": self._server.bucket,
            "s3_region": self._server.region,
            "s3_access_key": self._server.access_key,
            "s3_secret_key": self._server.secret_key,
            "s3_prefix": _PREFIX,
            "s3_addressing_style": "path",
        }

    def hash_of(self, key: str) -> str:
        """Return the SHA-256 of an object's bytes. Raises: DemoError."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self._server.endpoint,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            region_name=self._server.region,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )
        digest = hashlib.sha256()
        try:
            body = client.get_object(Bucket=self._server.bucket, Key=f"{_PREFIX}/{key}")["Body"]
            for block in body.iter_chunks(_BLOCK):
                digest.update(block)
        except (BotoCoreError, ClientError) as error:
            raise DemoError(f"The stored part {key} cannot be read from the bucket: {type(error).__name__}.") from error
        return digest.hexdigest()
