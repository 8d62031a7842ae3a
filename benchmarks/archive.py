"""Random batches out of an archive beside HDF5 with one image per chunk: images a second, cache warm.

python benchmarks/archive.py [--count 2000] [--size 256]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from groundswell.archive.catalogue import Row
from groundswell.archive.encoding import channel_schema, decode, encode
from groundswell.archive.reader import Archive
from groundswell.archive.sampling import BlockShuffle
from groundswell.archive.schema import ArchiveSchema
from groundswell.archive.writer import Prepared, ShardWriter
from groundswell.physics.imagette import Channel, Metadata, Quantity

BATCH = 128


def write(folder: Path, count: int, size: int) -> tuple[Archive, float]:
    """An archive of uint16 decibels in one shard, and the seconds that its writing took."""
    from groundswell.archive.catalogue import read_catalogue

    channel = channel_schema(Channel("VV", Quantity.SIGMA0_DB), "uint16")
    schema = ArchiveSchema(
        schema_version=1,
        channels=(channel,),
        height=size,
        width=size,
        dtype="uint16",
        spacing_m=50.0,
        fit="none",
        masks=(),
        shard_rows=count,
        sources=(),
    )
    values = np.random.default_rng(0).normal(-10, 3, (1, 1, size, size)).astype(np.float32)
    codes = encode(values, schema.channels, "uint16")[0]
    none = np.zeros((0, size, size), np.uint8)
    start = time.perf_counter()
    with ShardWriter(folder, schema, 0, count) as writer:
        for index in range(count):
            row = Row(Metadata(id=f"{index:06d}"), {}, 1.0, 0.0)
            writer.add(Prepared(row, codes + np.uint16(index % 100), none, [], 0))
    writer.commit()
    seconds = time.perf_counter() - start
    return Archive(folder, schema, *read_catalogue(folder)), seconds


def rate(read: Callable[[Any], Any], batches: list[Any]) -> float:
    """Images a second over all batches, after one pass that warms the cache."""
    for rows in batches:
        read(rows)
    start = time.perf_counter()
    for rows in batches:
        read(rows)
    return sum(map(len, batches)) / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive, seconds = write(Path(folder), options.count, options.size)
        shuffle = BlockShuffle(archive.shard_sizes, BATCH, seed=0)
        batches = [shuffle.batch(0, index) for index in range(shuffle.batches_per_epoch)]
        ours = rate(archive.read, batches)
        with h5py.File(Path(folder) / "peer.h5", "w") as file:
            shape = (options.count, 1, options.size, options.size)
            peer = file.create_dataset("x", shape, "uint16", chunks=(1, *shape[1:]))
            for row in range(options.count):
                peer[row] = 12500
            theirs = rate(lambda rows: decode(peer[np.sort(rows)], archive.schema.channels), batches)
    print(f"{options.count} images of {options.size} x {options.size}, uint16 decoded to float32, batches of {BATCH}")
    print(f"write, hash, statistics  {options.count / seconds:8.0f} images/s")
    print(f"read, archive            {ours:8.0f} images/s")
    print(f"read, HDF5               {theirs:8.0f} images/s: the archive is {ours / theirs:.1f} x as fast")


if __name__ == "__main__":
    main()
