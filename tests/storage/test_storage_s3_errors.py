from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    SSLError,
)
from botocore.stub import ANY, Stubber

from apps.core.abort import Abort
from apps.storage.backends import bucket_backend, work_patience
from apps.storage.errors import (
    BucketMissing,
    ObjectExists,
    StorageDenied,
    StorageError,
    StorageFault,
    StorageFull,
    StorageRefused,
    StorageUnreachable,
)
from apps.storage.models import StorageConfig
from apps.storage.s3 import S3Store
from apps.storage.s3_errors import storage_error
from apps.storage.s3_sink import MIB, PART_SIZE, S3Sink, concurrency_for, part_size_for

PLACE = "the S3 storage http://s3 (bucket b)"
URL = "http://s3/b/c/x/shard-0.snapshot?X-Amz-Signature=0123"


def _answer(code: str, status: int) -> ClientError:
    message = "AWSAccessKeyId AKCANARY, StringToSign AWS4..."
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (_answer("InvalidAccessKeyId", 403), StorageDenied, "access key"),
        (_answer("SignatureDoesNotMatch", 403), StorageDenied, "secret key"),
        (_answer("AccessDenied", 403), StorageDenied, "allowed"),
        (_answer("403", 403), StorageDenied, "both keys"),
        (_answer("ExpiredToken", 400), StorageDenied, "keys"),
        (_answer("RequestTimeTooSkewed", 403), StorageDenied, "clock"),
        (_answer("AuthorizationHeaderMalformed", 400), StorageDenied, "region"),
        (_answer("NoSuchBucket", 404), BucketMissing, "create it"),
        (_answer("SlowDown", 503), StorageFault, "later"),
        (_answer("InternalError", 500), StorageFault, "log"),
        (_answer("BadDigest", 400), StorageFault, "checksum"),
        (_answer("QuotaExceeded", 403), StorageFull, "quota"),
        (_answer("InsufficientStorage", 507), StorageFull, "room"),
        (_answer("XMinioStorageFull", 507), StorageFull, "room"),
        (_answer("<script>", 418), StorageRefused, "unknown code"),
        (_answer("<script>", 502), StorageFault, "unknown code"),
        (EndpointConnectionError(endpoint_url=URL), StorageUnreachable, "service runs"),
        (ConnectTimeoutError(endpoint_url=URL), StorageUnreachable, "in time"),
        (ReadTimeoutError(endpoint_url=URL), StorageUnreachable, "in time"),
        (SSLError(endpoint_url=URL, error="x"), StorageUnreachable, "certificate"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), StorageUnreachable, "broke"),
        (ConnectionResetError(), StorageUnreachable, "broke"),
        (ValueError("Invalid endpoint"), StorageDenied, "settings"),
    ],
)
def test_each_refusal_becomes_one_sentence_that_says_what_to_do(
    error: BaseException, kind: type[StorageError], word: str
) -> None:
    translated = storage_error(PLACE, error)

    assert type(translated) is kind
    assert word in str(translated)
    assert "http://s3 (bucket b)" in str(translated)
    for hidden in ("AKCANARY", "StringToSign", "shard-0", "X-Amz", "<script>"):
        assert hidden not in str(translated)


def test_parts_stay_below_the_limit_of_their_number_and_the_buffers_below_100_mib() -> None:
    for size in (0, 1, PART_SIZE, PART_SIZE + 1, 140 * 1024 * MIB, 200 * 1024 * MIB, 5 * 1024 * 1024 * MIB):
        part = part_size_for(size)
        assert part >= 1
        assert -(-size // part) <= 9000
        if size > PART_SIZE:
            assert part % MIB == 0
    assert (concurrency_for(PART_SIZE) + 2) * PART_SIZE <= 100 * MIB
    assert concurrency_for(part_size_for(5 * 1024 * 1024 * MIB)) == 1


@pytest.fixture
def stubbed(s3_config_offline: StorageConfig) -> Any:
    """A store whose client answers from a list, and the list."""
    store = S3Store(bucket_backend(s3_config_offline, work_patience()))
    with Stubber(store._bucket.client) as stubber:
        yield store, stubber


@pytest.fixture
def s3_config_offline() -> StorageConfig:
    return StorageConfig(
        name="b",
        type="s3",
        s3_endpoint="http://127.0.0.1:9",
        s3_bucket="bucket",
        s3_region="us-east-1",
        s3_access_key="AK",
        s3_secret_key="SK",
    )


def _missing(stubber: Stubber) -> None:
    stubber.add_client_error("head_object", "404", http_status_code=404)


def _shown(stubber: Stubber, size: int, token: str = "") -> None:
    stubber.add_response("head_object", {"ContentLength": size, "ETag": '"e"', "Metadata": {"backupmgr-write": token}})


def test_a_server_without_checksums_and_conditions_is_used_without_them(stubbed: Any) -> None:
    store, stubber = stubbed
    size = PART_SIZE + 1
    _missing(stubber)
    stubber.add_client_error("create_multipart_upload", "NotImplemented", http_status_code=501)
    plain = {"Bucket": "bucket", "Key": "a", "ContentType": ANY, "Metadata": ANY}
    stubber.add_response("create_multipart_upload", {"UploadId": "u"}, plain)
    for number in (1, 2):
        part = {"Bucket": "bucket", "Key": "a", "UploadId": "u", "PartNumber": number, "Body": ANY}
        stubber.add_response("upload_part", {"ETag": f"e{number}"}, part)
    stubber.add_client_error("complete_multipart_upload", "NotImplemented", http_status_code=501)
    _missing(stubber)
    complete = {
        "Bucket": "bucket",
        "Key": "a",
        "UploadId": "u",
        "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e1"}, {"PartNumber": 2, "ETag": "e2"}]},
    }
    stubber.add_response("complete_multipart_upload", {}, complete)
    _shown(stubber, size)

    sink = store.sink("a", size, Abort())
    sink.write(0, bytearray(PART_SIZE), PART_SIZE)
    sink.write(1, bytearray(PART_SIZE), 1)

    assert sink.commit().size_bytes == size
    stubber.assert_no_pending_responses()
    assert (store._bucket.features.checksums, store._bucket.features.conditional) == (False, False)


def _finished_sink(store: S3Store, stubber: Stubber) -> S3Sink:
    size = PART_SIZE + 1
    _missing(stubber)
    stubber.add_response("create_multipart_upload", {"UploadId": "u"})
    stubber.add_response("upload_part", {"ETag": "e1"})
    stubber.add_response("upload_part", {"ETag": "e2"})
    sink = store.sink("a", size, Abort())
    sink.write(0, bytearray(PART_SIZE), PART_SIZE)
    sink.write(1, bytearray(PART_SIZE), 1)
    return sink


def test_a_completion_whose_answer_got_lost_is_recognised(stubbed: Any) -> None:
    store, stubber = stubbed
    sink = _finished_sink(store, stubber)
    stubber.add_client_error("complete_multipart_upload", "NoSuchUpload", http_status_code=404)
    _shown(stubber, PART_SIZE + 1, sink._token)
    _shown(stubber, PART_SIZE + 1, sink._token)

    assert sink.commit().size_bytes == PART_SIZE + 1
    sink.abort()  # nothing to do: no call is answered any more
    stubber.assert_no_pending_responses()


def test_an_upload_that_vanished_is_no_success(stubbed: Any) -> None:
    store, stubber = stubbed
    sink = _finished_sink(store, stubber)
    stubber.add_client_error("complete_multipart_upload", "NoSuchUpload", http_status_code=404)
    _missing(stubber)

    with pytest.raises(StorageFault, match="lost an unfinished upload"):
        sink.commit()


def test_somebody_elses_object_is_neither_overwritten_nor_removed(stubbed: Any) -> None:
    store, stubber = stubbed
    sink = _finished_sink(store, stubber)
    stubber.add_client_error("complete_multipart_upload", "PreconditionFailed", http_status_code=412)
    _shown(stubber, 5, "another writer")
    with pytest.raises(ObjectExists):
        sink.commit()

    stubber.add_response("abort_multipart_upload", {})
    stubber.add_client_error("list_parts", "NoSuchUpload", http_status_code=404)
    _shown(stubber, 5, "another writer")
    sink.abort()

    stubber.assert_no_pending_responses()


def test_an_object_of_the_wrong_size_is_no_success_and_is_removed(stubbed: Any) -> None:
    store, stubber = stubbed
    sink = _finished_sink(store, stubber)
    stubber.add_response("complete_multipart_upload", {})
    _shown(stubber, 5, sink._token)
    with pytest.raises(StorageFault, match="shows 5 bytes"):
        sink.commit()

    stubber.add_client_error("abort_multipart_upload", "NoSuchUpload", http_status_code=404)
    _shown(stubber, 5, sink._token)
    stubber.add_response("delete_object", {})
    sink.abort()

    stubber.assert_no_pending_responses()


def test_an_upload_that_reappears_is_aborted_again(stubbed: Any) -> None:
    store, stubber = stubbed
    sink = _finished_sink(store, stubber)
    stubber.add_response("abort_multipart_upload", {})
    stubber.add_response("list_parts", {"Parts": []})
    stubber.add_response("abort_multipart_upload", {})
    stubber.add_client_error("list_parts", "NoSuchUpload", http_status_code=404)

    sink.abort()

    stubber.assert_no_pending_responses()


def test_a_sink_with_a_part_missing_is_not_committed(stubbed: Any) -> None:
    store, stubber = stubbed
    _missing(stubber)
    stubber.add_response("create_multipart_upload", {"UploadId": "u"})
    sink = store.sink("a", PART_SIZE + 1, Abort())

    with pytest.raises(StorageFault, match="2 of 2 parts"):
        sink.commit()
