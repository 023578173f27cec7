"""
CRC-64 with the polynomial of ISO 3309, compatible with Go's ``hash/crc64``.

Bits are reflected; the initial value and the final XOR are all ones. Python has no CRC-64, and a loop over bytes is too
slow for a layer. The polynomial, ``x^64 + x^4 + x^3 + x + 1``, is sparse, so a whole chunk is reduced as one large
integer. Squaring the polynomial doubles its exponents: for ``K = 2^k``, ``x^(64 K) = x^(4 K) + x^(3 K) + x^K + 1``.
Four shifts fold the upper part of a number onto the lower part.
"""

from __future__ import annotations

_ONES = (1 << 64) - 1


def update(checksum: int, data: bytes) -> int:
    """Return ``checksum``, the checksum of all earlier data (0 if none), extended by ``data``."""
    # bytes are reflected, so bit 0 of the little-endian number is the highest power of x
    return _reduced(int.from_bytes(data, "little") ^ checksum ^ _ONES, 8 * len(data) + 64) ^ _ONES


def _reduced(value: int, length: int) -> int:
    """Return the remainder of a polynomial of ``length`` bits, modulo the CRC's polynomial."""
    for power in range((length // 64).bit_length(), -1, -1):
        step = 1 << power
        while length > 64 * step:
            count = min(60 * step, length - 64 * step)
            high = (value & ((1 << count) - 1)) << (64 * step - count)
            value = (value >> count) ^ high ^ (high >> step) ^ (high >> 3 * step) ^ (high >> 4 * step)
            length -= count
    return value
