"""CRC-32C (Castagnoli) in numpy, some hundred megabytes per second.

A CRC is linear over GF(2): that of a joined message is that of its first part, advanced over as many zero bytes as the
second part has, xor that of the second part. So a long message is cut into equal lanes whose CRCs are computed side by
side, two bytes at a time, and joined pairwise. Zeros in front change nothing while the register is 0, so the message is
filled up from the front; the start value 0xFFFFFFFF is advanced by itself.

    message ─► lanes (n, 256) ─► n CRCs ─► n/2 ─► … ─► 1
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_LANE = 256
"""Bytes of one lane."""
_BLOCK = _LANE << 14
"""Longest piece that is taken at once; bounds the memory."""
_START = 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """As used by TFRecord, iSCSI and ext4; crc32c(b"123456789") == 0xE3069283."""
    message = np.frombuffer(data, np.uint8)
    crc = _START
    for start in range(0, len(message), _BLOCK):
        block = message[start : start + _BLOCK]
        crc = _skip(crc, len(block)) ^ _linear(block)
    return crc ^ _START


def _linear(block: NDArray[np.uint8]) -> int:
    """The register after `block` when it starts at 0."""
    lane = min(_LANE, len(block) + len(block) % 2)
    lanes = 1 << (-(-len(block) // lane) - 1).bit_length()
    filled = np.zeros(lanes * lane, np.uint8)
    filled[len(filled) - len(block) :] = block
    pairs = np.ascontiguousarray(filled.view("<u2").reshape(lanes, -1).T)
    table, _ = _zeros(1)
    crc = np.zeros(lanes, np.uint32)
    for pair in pairs:
        crc = (crc >> 16) ^ table[(crc & 0xFFFF) ^ pair]
    level = _LANE.bit_length() - 1
    while len(crc) > 1:
        crc = _advance(crc[0::2], level) ^ crc[1::2]
        level += 1
    return int(crc[0])


def _skip(crc: int, zeros: int) -> int:
    """The register after that many zero bytes."""
    register = np.array([crc], np.uint32)
    for level in range(zeros.bit_length()):
        if zeros >> level & 1:
            register = _advance(register, level)
    return int(register[0])


def _advance(crc: U32, level: int) -> U32:
    """The registers after 2**level zero bytes."""
    low, high = _zeros(level)
    return low[crc & 0xFFFF] ^ high[crc >> 16]


@cache
def _zeros(level: int) -> tuple[U32, U32]:
    """What 2**level zero bytes make of a register's low and high half, each (65536,)."""
    register: U32 = np.arange(1 << 16, dtype=np.uint32)
    if level == 0:
        return _bitwise(register, 1), _bitwise(register << np.uint32(16), 1)
    half, other = _zeros(level - 1)
    return _advance(half, level - 1), _advance(other, level - 1)


def _bitwise(register: U32, count: int) -> U32:
    """The definition: registers after `count` zero bytes, bit by bit."""
    for _ in range(8 * count):
        register = register >> np.uint32(1) ^ (register & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return register
