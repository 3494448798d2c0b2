"""The CRC-32 of a whole from the CRC-32s of its parts, so that parts can be hashed in parallel and in any order."""

from __future__ import annotations

import base64
from functools import lru_cache

# The reflected polynomial of CRC-32 (zlib, gzip, S3's "CRC32").
_POLYNOMIAL = 0xEDB88320


def combine_crc32(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of A+B from that of A, that of B, and the length of B in bytes.

    Appending n zero bytes to A multiplies its CRC by x^(8n) modulo the polynomial; B's CRC is added to that. It is
    what zlib's crc32_combine does, which Python does not pass on.
    """
    return _multiply(_shift(second_length), first) ^ second


def encode_crc32(crc: int) -> str:
    """Return the CRC the way S3's headers carry it: base64 of four bytes, high byte first."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2) modulo the CRC's, in its reflected order of bits (bit 31 is x^0)."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


@lru_cache(maxsize=64)  # the parts of an object have one or two lengths
def _shift(length: int) -> int:
    """Return x^(8 * length) modulo the polynomial, by squaring."""
    power = 1 << 30  # x^1
    for _ in range(3):  # x^8: one byte
        power = _multiply(power, power)
    result = 1 << 31  # x^0
    while length:
        if length & 1:
            result = _multiply(power, result)
        power = _multiply(power, power)
        length >>= 1
    return result
