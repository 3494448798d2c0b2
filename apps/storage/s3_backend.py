"""django-storages' S3Storage without the surroundings: no environment variable and no AWS config file counts.

Imported lazily (it imports boto3).
"""

from __future__ import annotations

import os
from typing import Any, cast

import boto3
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore
from botocore.configprovider import ConstantProvider as Constant
from botocore.handlers import add_expect_header
from botocore.session import Session
from storages.backends.s3 import S3Storage


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


def _isolated_session() -> Session:
    session = Session()
    constants = {name: Constant(default) for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    constants["config_file"] = constants["credentials_file"] = Constant(os.devnull)
    constants["s3"] = constants["proxies_config"] = Constant(None)
    session.register_component("config_store", ConfigValueStore(mapping=constants))
    # Bodies come from memory and can be sent again: waiting up to a second for "100 Continue" per part gains nothing.
    session.unregister("before-call.s3", cast(Any, add_expect_header))  # its type is a handler in all but the stubs
    return session
