"""Random numbers as a pure function of a key, so that no result depends on how a batch was split.

Every imagette has a key: a 64-bit hash of the seed, the epoch, its index and the view. Numbers are drawn from the
key and a stream name by the SplitMix64 mixing function (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators", OOPSLA), written in torch integer arithmetic: the same bits on any device, for
any batch order, with no state to save.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of a signed 64-bit integer (torch's own is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser: int64 ``[...]`` to well-mixed int64 ``[...]``. A bijection."""
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _signed(value: int) -> int:
    """``value`` modulo 2**64, as a signed 64-bit integer."""
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def stream(name: str) -> int:
    """A number for a stream of random numbers, from its name (stable across processes, unlike ``hash``)."""
    return zlib.crc32(name.encode())


def keys(seed: int, indices: Tensor | Iterable[int], *parts: int | str) -> Tensor:
    """One key for each imagette.

    Parameters
    ----------
    seed : int
        The seed of the run.
    indices : int64 [B]
        What tells the imagettes apart (the row in the archive, the index in the simulation).
    parts : int or str
        Whatever else the numbers must depend on, such as the epoch and the view.

    Returns
    -------
    int64 [B]
    """
    index = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), dtype=torch.int64)
    key = torch.full_like(index, _signed(seed), dtype=torch.int64)
    for part in (*parts, index.to(torch.int64)):
        word = stream(part) if isinstance(part, str) else _signed(part) if isinstance(part, int) else part
        key = mix((key + _GOLDEN) ^ mix(torch.as_tensor(word, dtype=torch.int64, device=key.device) + _GOLDEN))
    return key


def _words(key: Tensor, name: str, count: int) -> Tensor:
    """int64 ``[B, count]``: the first ``count`` words of the stream ``name`` of each key."""
    start = mix(key + _signed(_GOLDEN * (2 * stream(name) + 1)))
    counter = torch.arange(1, count + 1, device=key.device, dtype=torch.int64)
    return mix(start[:, None] + counter[None] * _GOLDEN)


def uniform(key: Tensor, name: str, count: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
    """float32 ``[B, count]``, uniform in ``[low, high)``, from int64 keys ``[B]`` and a stream name."""
    bits = _shift_right(_words(key, name, count), 40)  # 24 bits: exact in float32, never 1
    unit = bits.to(torch.float32) * 2.0**-24
    return low + (high - low) * unit


def normal(key: Tensor, name: str, count: int = 1) -> Tensor:
    """float32 ``[B, count]``, standard normal (Box-Muller), from int64 keys ``[B]`` and a stream name."""
    pairs = (count + 1) // 2
    u = uniform(key, name, 2 * pairs)
    radius = torch.sqrt(-2.0 * torch.log(1.0 - u[:, :pairs]))
    angle = 2.0 * math.pi * u[:, pairs:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]


def integers(key: Tensor, name: str, high: int, count: int = 1) -> Tensor:
    """int64 ``[B, count]``, uniform in ``0 .. high - 1`` (``high`` up to 2**24)."""
    return (uniform(key, name, count).double() * high).long()


def generator(key: int | Tensor, name: str = "", device: torch.device | str = "cpu") -> torch.Generator:
    """A ``torch.Generator`` seeded by one key and a stream name, for fields too large to draw by counter."""
    single = torch.as_tensor([int(key)], dtype=torch.int64)
    seed = int(_shift_right(_words(single, name, 1), 1)[0, 0])
    return torch.Generator(device).manual_seed(seed)


def permutation(seed: int, count: int, *parts: int | str) -> Tensor:
    """int64 ``[count]``: a random order that is a pure function of the seed and the parts."""
    key = keys(seed, [0], *parts)
    return torch.randperm(count, generator=generator(key, "permutation"))
