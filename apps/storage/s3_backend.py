"""django-storages' S3Storage without the surroundings: no environment variable and no AWS config file counts.

Imported lazily (it imports boto3).
"""

from __future__ import annotations

import os
from typing import Any, cast

import boto3
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore
from botocore.configprovider import ConstantProvider as Constant
from botocore.exceptions import HTTPClientError
from botocore.handlers import add_expect_header
from botocore.session import Session
from storages.backends.s3 import S3Storage

from apps.core.outbound import AddressRefused, current_guard


class IsolatedS3Storage(S3Storage):
    """An S3Storage that is what its options say, whatever AWS_* variables or ~/.aws files say.

    A session of boto3 would take retries, proxies, checksums and more from there, and an AWS_PROFILE that does not
    exist ends it with ProfileNotFound even though both keys are given.
    """

    def _create_session(self) -> boto3.Session:
        return boto3.Session(
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            aws_session_token=None,
            region_name=self.region_name,
            botocore_session=_isolated_session(),
        )

    @property
    def connection(self) -> Any:
        """The resource, whose connections are held against the policy of outbound.py. Raises: AddressRefused."""
        known = getattr(self._connections, "connection", None)
        resource = super().connection
        if known is None:
            _guard(resource.meta.client, self.endpoint_url)
        return resource


def _isolated_session() -> Session:
    session = Session()
    constants = {name: Constant(default) for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    constants["config_file"] = constants["credentials_file"] = Constant(os.devnull)
    constants["s3"] = constants["proxies_config"] = Constant(None)
    session.register_component("config_store", ConfigValueStore(mapping=constants))
    # Bodies come from memory and can be sent again: waiting up to a second for "100 Continue" per part gains nothing.
    session.unregister("before-call.s3", cast(Any, add_expect_header))  # its type is a handler in all but the stubs
    return session


def _guard(client: Any, endpoint_url: str) -> None:
    """Have every connection of the client checked once it stands. botocore has no public place to say so."""
    session = client._endpoint.http_session
    manager = session._manager
    manager.pool_classes_by_scheme = current_guard(endpoint_url).pools(manager.pool_classes_by_scheme)
    send = session.send

    def send_or_refuse(request: Any) -> Any:
        try:
            return send(request)
        except HTTPClientError as error:
            # botocore takes a refusal for a failure of the network, and would try again.
            refusal = error.kwargs.get("error")
            if isinstance(refusal, AddressRefused):
                raise refusal from None
            raise

    session.send = send_or_refuse
