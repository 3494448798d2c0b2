"""The first thing that comes to mind: requests.get(stream=True) into boto3's upload_fileobj.

Prints the seconds, and those of CPU:

    naive_upload.py URL ENDPOINT BUCKET KEY     (keys of AWS in the environment)

The one thing it knows better is `Accept-Encoding: identity`, without which Qdrant compresses the snapshot.
"""

from __future__ import annotations

import sys
import time

import boto3
import requests


def main(url: str, endpoint: str, bucket: str, key: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    started, busy = time.monotonic(), time.process_time()
    with requests.get(url, stream=True, headers={"Accept-Encoding": "identity"}, timeout=60) as answer:
        answer.raise_for_status()
        client.upload_fileobj(answer.raw, bucket, key)
    print(time.monotonic() - started, time.process_time() - busy)


if __name__ == "__main__":
    main(*sys.argv[1:])
