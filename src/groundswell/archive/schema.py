"""What an archive is made of: ``archive.json`` and the names of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from groundswell.config import Settings, validate
from groundswell.errors import ArchiveError, ConfigError, DataError
from groundswell.files import read_json, write_json
from groundswell.physics.imagette import Channel, Quantity

SCHEMA_VERSION = 1
SCHEMA_FILE = "archive.json"
STATISTICS_FILE = "statistics.json"
PENDING = "pending"

Fit = Literal["none", "crop", "pad", "resize"]
DType = Literal["uint8", "uint16", "float32"]


class ChannelSchema(Settings):
    """One channel as it is stored: physical value = code * ``scale_factor`` + ``add_offset`` (CF conventions).

    ``fill`` is the code of a pixel without valid data (None: NaN for float32, no such pixel for uint8). ``floor_db``
    is the level at which decibels were floored; None where nothing was.
    """

    name: str
    quantity: Quantity
    scale_factor: float = 1.0
    add_offset: float = 0.0
    fill: int | None = None
    floor_db: float | None = None


class SourceRecord(Settings):
    """One ingested source: what it was, and which shards its manifest fills.

    ``duplicates`` counts the ids that an earlier source of the archive had already brought. ``declared_spacing_m``
    stands in where an image does not know its pixel spacing.
    """

    description: dict[str, Any]
    declared_spacing_m: float | None
    manifest: str
    manifest_sha256: str
    items: int
    first_shard: int
    shards: int
    duplicates: int


class ArchiveSchema(Settings):
    """``archive.json``: everything needed to read the shards, and what they were made from.

    ``height`` and ``width`` are in pixels. ``spacing_m`` is the pixel spacing of the images before they were fitted,
    as declared or as the first image says (the catalogue holds each imagette's own). ``fit`` says how images of
    another size were treated; ``none`` means that they were set aside.
    """

    schema_version: int
    channels: tuple[ChannelSchema, ...]
    height: int
    width: int
    dtype: DType
    spacing_m: float | None
    fit: Fit
    masks: tuple[str, ...]
    shard_rows: int
    sources: tuple[SourceRecord, ...]

    @property
    def source(self) -> dict[str, Any]:
        """The description of the first source."""
        return self.sources[0].description

    @property
    def names(self) -> tuple[Channel, ...]:
        """Name and quantity of each channel."""
        return tuple(Channel(channel.name, channel.quantity) for channel in self.channels)

    @property
    def shard_count(self) -> int:
        """Number of shards that the manifests plan."""
        return sum(source.shards for source in self.sources)

    @property
    def row_bytes(self) -> int:
        """Bytes of one imagette in a shard."""
        return row_bytes(len(self.channels), self.height, self.width, self.dtype)


def row_bytes(channels: int, height: int, width: int, dtype: str) -> int:
    """Bytes of one stored imagette."""
    return channels * height * width * {"uint8": 1, "uint16": 2, "float32": 4}[dtype]


def shard_file(number: int) -> str:
    """Path of the pixels of a shard, inside the archive."""
    return f"shards/{number:06d}.npy"


def mask_file(number: int) -> str:
    """Path of the masks of a shard, inside the archive."""
    return f"masks/{number:06d}.npy"


def box_file(number: int) -> str:
    """Path of the boxes of a shard, inside the archive."""
    return f"boxes/{number:06d}.parquet"


def failure_file(number: int) -> str:
    """Path of the list of what was set aside while a shard was written, inside the archive."""
    return f"failures/{number:06d}.parquet"


def catalogue_file(number: int) -> str:
    """Path of the catalogue part (the commit record) of a shard, inside the archive."""
    return f"catalogue/{number:06d}.parquet"


def pending_file(number: int) -> str:
    """Path of the part of a shard that is written but not yet committed, inside the archive."""
    return f"{PENDING}/{number:06d}.parquet"


def manifest_file(source: int) -> str:
    """Path of the manifest of a source, inside the archive."""
    return f"manifests/{source:06d}.parquet"


def is_archive(path: str | Path) -> bool:
    """Whether a folder is an archive."""
    return (Path(path) / SCHEMA_FILE).is_file()


def read_schema(path: str | Path) -> ArchiveSchema:
    """Read ``archive.json``.

    Raises
    ------
    ArchiveError
        When the folder is no archive, its ``archive.json`` is damaged, or a newer groundswell wrote it.
    """
    file = Path(path) / SCHEMA_FILE
    if not file.is_file():
        raise ArchiveError(
            "this is not an archive" if Path(path).exists() else "there is no such archive",
            where=path,
            why=f"it has no {SCHEMA_FILE}" if Path(path).exists() else None,
            fix="make one with `groundswell simulate` or `groundswell ingest`",
        )
    damaged = "restore it from a copy: the pixels cannot be read without it"
    try:
        values = read_json(file)
    except DataError as error:
        raise ArchiveError(
            "the description of an archive is damaged", where=file, why=error.why, fix=damaged
        ) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArchiveError(
            "an archive was written by a newer groundswell",
            where=file,
            why=f"its schema version is {version}; this program knows {SCHEMA_VERSION}",
            fix="upgrade groundswell: pip install -U groundswell",
        )
    try:
        return validate(ArchiveSchema, values)
    except ConfigError as error:
        why = f"{error.what} ({error.why})" if error.why else error.what
        raise ArchiveError("the description of an archive is damaged", where=file, why=why, fix=damaged) from error


def write_schema(path: str | Path, schema: ArchiveSchema) -> None:
    """Write ``archive.json``, whole or not at all."""
    write_json(Path(path) / SCHEMA_FILE, schema.model_dump(mode="json"))
