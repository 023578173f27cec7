"""
CRC-64 with the polynomial of ISO 3309, as Go's ``hash/crc64`` computes it (bits reflected, all ones before and after).

Python has no such checksum, and a loop over bytes is too slow for a layer. The polynomial, ``x^64 + x^4 + x^3 + x +
1``, is so sparse that a whole chunk can be reduced as one large integer. Squaring the polynomial doubles its
exponents. So for ``K = 2^k``, ``x^(64 K) = x^(4 K) + x^(3 K) + x^K + 1``, and the upper part of a number folds onto
the lower part with four shifts.
"""

from __future__ import annotations

_ONES = (1 << 64) - 1


def update(checksum: int, data: bytes) -> int:
    """Return the checksum of more ``data``; ``checksum`` is that of the data before, 0 at the beginning."""
    # in a little-endian number of reflected bytes, bit 0 is the highest power of x
    return _reduced(int.from_bytes(data, "little") ^ checksum ^ _ONES, 8 * len(data) + 64) ^ _ONES


def _reduced(value: int, length: int) -> int:
    """Return the remainder of a polynomial of ``length`` bits."""
    for power in range((length // 64).bit_length(), -1, -1):
        step = 1 << power
        while length > 64 * step:
            count = min(60 * step, length - 64 * step)
            high = (value & ((1 << count) - 1)) << (64 * step - count)
            value = (value >> count) ^ high ^ (high >> step) ^ (high >> 3 * step) ^ (high >> 4 * step)
            length -= count
    return value
