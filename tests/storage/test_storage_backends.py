from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.storage.backends import bucket_backend, work_patience
from apps.storage.models import StorageConfig


@pytest.fixture
def config() -> StorageConfig:
    return StorageConfig(
        name="b",
        type="s3",
        s3_endpoint="https://s3.example.org",
        s3_bucket="bucket",
        s3_region="eu-central-1",
        s3_access_key="AK",
        s3_secret_key="SK",
        s3_prefix="/a//b/",
    )


def test_nothing_of_the_surroundings_gets_into_the_client(
    config: StorageConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aws_config = tmp_path / "config"
    aws_config.write_text(
        "[default]\nregion = leaked\nca_bundle = /leaked\nendpoint_url = http://leaked\n"
        "s3 =\n  use_accelerate_endpoint = true\n  addressing_style = virtual\n"
    )
    for name, value in {
        "AWS_CONFIG_FILE": str(aws_config),
        "AWS_SHARED_CREDENTIALS_FILE": str(aws_config),
        "AWS_PROFILE": "does-not-exist",
        "AWS_ACCESS_KEY_ID": "leaked",
        "AWS_SECRET_ACCESS_KEY": "leaked",
        "AWS_SESSION_TOKEN": "leaked",
        "AWS_S3_SESSION_PROFILE": "leaked",
        "AWS_REGION": "leaked",
        "AWS_DEFAULT_REGION": "leaked",
        "AWS_CA_BUNDLE": "/leaked",
        "REQUESTS_CA_BUNDLE": "/leaked",
        "AWS_ENDPOINT_URL": "http://leaked",
        "AWS_ENDPOINT_URL_S3": "http://leaked",
        "AWS_MAX_ATTEMPTS": "77",
        "AWS_RETRY_MODE": "legacy",
        "AWS_DEFAULTS_MODE": "bogus",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "AWS_CSM_ENABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)

    backend = bucket_backend(config, work_patience())
    client = backend.connection.meta.client

    assert client.meta.endpoint_url == "https://s3.example.org"
    assert client.meta.region_name == "eu-central-1"
    assert client._endpoint.http_session._verify is True
    credentials = client._request_signer._credentials.get_frozen_credentials()
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("AK", "SK", None)
    assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": 5}
    assert client.meta.config.request_checksum_calculation == "when_required"
    url = backend.url("x y", expire=60)
    assert url.startswith("https://s3.example.org/bucket/a/b/x%20y?X-Amz-Algorithm=AWS4-HMAC-SHA256")
    assert "leaked" not in url and "Security-Token" not in url


def test_an_own_ca_is_written_once_and_read_by_the_client(
    config: StorageConfig, settings: Any, tmp_path: Path, pem: str
) -> None:
    settings.DATA_DIR = tmp_path
    config.ca = pem

    paths = {bucket_backend(config, work_patience()).verify for _ in range(2)}

    (path,) = paths
    assert Path(path).read_text() == pem
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    assert len(list(Path(path).parent.iterdir())) == 1


def test_tls_is_not_verified_only_when_that_is_said(config: StorageConfig, pem: str) -> None:
    config.verify_tls = False
    config.ca = pem

    assert bucket_backend(config, work_patience()).verify is False


@pytest.fixture(scope="session")
def pem() -> str:
    """A certificate that signs itself."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_neither_start_nor_a_folder_imports_boto3(folder_root: Path) -> None:
    program = (
        "import django, sys; django.setup()\n"
        "from apps.storage.models import StorageConfig\n"
        "from apps.storage.services import open_store\n"
        f"open_store(StorageConfig(type='local', path={str(folder_root)!r}))\n"
        "assert not {'boto3', 'botocore', 'storages'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "BACKUPMGR_LOCAL_ROOTS": str(folder_root),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
