"""A folder of images as a source of imagettes: any format, any size, one declared quantity, the channels they share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, QuantityError, UsageError, did_you_mean
from groundswell.files import sha256_file
from groundswell.physics.imagette import Channel, FarRange, Imagette, Metadata, Quantity
from groundswell.physics.quantities import choices
from groundswell.products.folder.bands import canonical, in_order, is_polarised, linear_ratios, quantity_of
from groundswell.products.folder.boxes import Boxes, read_boxes
from groundswell.products.folder.files import RGB, Facts, check_turnable, read_image
from groundswell.products.folder.labels import Columns, Labels, join, mask_paths
from groundswell.products.folder.levels import WRONG_LEVEL, can_only_be_decibels, check_values
from groundswell.products.folder.masks import MaskRule, mask_rule, read_mask
from groundswell.products.folder.survey import Listing, Survey, list_images, survey
from groundswell.products.folder.tables import read_table
from groundswell.products.names import metadata_from_path, parse_measurement
from groundswell.products.source import Rejected

POLARISATIONS = ("HH", "HV", "VH", "VV")
SINGLE = "intensity"
"""Name of the only channel of an image that says nothing of its polarisation."""
_SAMPLE = 32
_MISSING = "an image file is missing: it was there when the archive was planned"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as JPEG uses it


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """How a folder is to be read.

    Attributes
    ----------
    quantity : Quantity, optional
        What the pixels are; may be left out only where every file is a named Sentinel-1 quick-look.
    bands : tuple of tuples of str
        Names of the bands of files that do not name their own; the tuple of n names is for files of n bands.
    channels : tuple of str, optional
        Channels to keep; those that all files share by default.
    allow_missing_channel : bool
        Keep files without one of ``channels``, with NaN in its place.
    colour_to_grey : bool
        Take the luminance of colour images.
    far_range : "right", "up", "left" or "down"
        The side of the files' images on which far range lies. They are turned, with masks and boxes, so that it is
        on the right.
    only_labelled : bool
        Leave out images without a row in the label table.
    labels, boxes : Path, optional
        The label table (CSV, Parquet) and the boxes (COCO JSON).
    columns : Columns
        What the columns of the label table are.
    """

    quantity: Quantity | None = None
    bands: tuple[tuple[str, ...], ...] = ()
    channels: tuple[str, ...] | None = None
    allow_missing_channel: bool = False
    colour_to_grey: bool = False
    far_range: FarRange = "right"
    only_labelled: bool = False
    labels: Path | None = None
    boxes: Path | None = None
    columns: Columns = field(default_factory=Columns)


class ImageFolder:
    """Image files of one or more folders, with their labels, masks and boxes: a `groundswell.products.source.Source`.

    Headers are read when it is made; pixels only by `read`.

    Attributes
    ----------
    channels, mask_names, description, eight_bit
        As every source has them.
    inferred : bool
        Whether the quantity was told from the values.
    listing, survey, labels, boxes
        What was found, for a plan that people can read.

    Raises
    ------
    UsageError, DataError, QuantityError
        When the settings do not fit the files; the message says what would.
    """

    def __init__(self, sources: Sequence[str | Path], settings: FolderSettings | None = None) -> None:
        self.settings = settings or FolderSettings()
        self.labels: Labels | None = None
        self.boxes: Boxes | None = None
        self.inferred = False
        self._mask_rules: dict[str, MaskRule] = {}
        self.listing = self._annotate(list_images(sources))
        self.survey: Survey = survey(self.listing.files)
        if not self.survey.facts:
            first = self.survey.unreadable[0]
            raise DataError(
                "none of the image files could be read", where=self.listing.root, why=f"{first.id}: {first.reason}"
            )
        self._grey = self._colour_is_grey()
        self._quantity = self._declare_quantity()
        self.channels = self._choose_channels()
        self.mask_names = tuple(self._mask_rules)
        self.eight_bit = self._has_only_bytes()
        self.description: dict[str, Any] = self._describe([Path(source).resolve() for source in sources])
        self._check_level()

    def ids(self) -> list[str]:
        """The path of every image below the common folder, sorted."""
        return list(self.listing.files)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of the image of every file whose header could be read."""
        upright = self.settings.far_range in ("right", "left")
        facts = self.survey.facts.items()
        return {id_: (f.height, f.width) if upright else (f.width, f.height) for id_, f in facts}

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The images asked for, in that order; what cannot be read as one with its reason."""
        return [self._read_one(id_) for id_ in ids]

    def _annotate(self, listing: Listing) -> Listing:
        """Join labels, masks and boxes; the mask images that the table names are no images of their own."""
        s = self.settings
        if s.labels is None and (s.columns != Columns() or s.only_labelled):
            raise UsageError("columns of a label table are named, but no label table", fix="give --labels FILE")
        files = listing.files
        if s.labels is not None:
            table = read_table(s.labels)
            masks = mask_paths(table, s.columns, [listing.root])
            known = {str(Path(path).resolve()) for paths in masks.values() for path in paths if path is not None}
            files = {id_: path for id_, path in files.items() if str(path.resolve()) not in known}
            self.labels = join(table, s.columns, _absolute(files), masks)
            if s.only_labelled:
                files = {id_: path for id_, path in files.items() if id_ in self.labels.rows}
            for name in s.columns.masks:
                own = [row.masks[name] for row in self.labels.rows.values() if name in row.masks]
                self._mask_rules[name] = mask_rule(name, own)
        if s.boxes is not None:
            self.boxes = read_boxes(s.boxes, _absolute(files))
        return replace(listing, files=files)

    def _colour_is_grey(self) -> bool:
        """Whether files of red, green and blue are taken for grey: asked for, or most of a sample is."""
        coloured = [id_ for id_, facts in self.survey.facts.items() if facts.colour]
        if not coloured or self.settings.colour_to_grey:
            return True
        sample = coloured[:: max(1, len(coloured) // _SAMPLE)]
        grey = read = 0
        for id_ in sample:
            try:
                grey += len(read_image(self.listing.files[id_]).pixels) == 1
                read += 1
            except DataError:
                continue
        return 2 * grey >= read

    def _names(self, id_: str, facts: Facts) -> tuple[str, ...]:
        """The channel names of a file: as declared, as the file says, as its name says, or numbered; seasons as one."""
        return canonical(self._bands(id_, facts))

    def _bands(self, id_: str, facts: Facts) -> tuple[str, ...]:
        bands = 1 if facts.colour and self._grey else facts.bands
        declared = [names for names in self.settings.bands if len(names) == bands]
        if declared:
            return declared[0]
        if facts.names is not None and (bands != 1 or facts.names[0] not in RGB):
            return facts.names
        if bands == 1:
            measurement = parse_measurement(id_.rsplit("/", 1)[-1])
            return (SINGLE if measurement is None else measurement.polarisation,)
        return tuple(f"band{i + 1}" for i in range(bands))

    def _declare_quantity(self) -> Quantity:
        if self.settings.quantity is not None:
            return self.settings.quantity
        other = [id_ for id_, facts in self.survey.facts.items() if not _is_quicklook(id_, facts)]
        if not other:
            return Quantity.QUICKLOOK
        if self._shows_decibels(other):
            return Quantity.SIGMA0_DB
        facts, mixed = self.survey.facts[other[0]], len(other) < len(self.survey.facts)
        raise QuantityError(
            "what the pixels measure cannot be told from these files: declare it",
            where=f"{other[0]} and {len(other) - 1} more" if len(other) > 1 else other[0],
            why=f"{facts.format} with samples of {facts.dtype} may hold any quantity",
            fix=("leave out what is no quick-look (name the files, or add --only-labelled), or " if mixed else "")
            + "add --quantity with one of\n"
            + choices(),
        )

    def _shows_decibels(self, ids: list[str]) -> bool:
        """Whether these are GeoTIFF tiles with bands named by polarisation whose values can only be decibels."""
        for id_ in ids:
            facts = self.survey.facts[id_]
            if not (facts.georeferenced and facts.dtype.startswith("float") and is_polarised(self._names(id_, facts))):
                return False
        self.inferred = can_only_be_decibels(self._sampled(ids))
        return self.inferred

    def _sampled(self, ids: list[str]) -> Iterator[tuple[tuple[str, ...], NDArray[np.float32]]]:
        for id_ in _some(ids):
            try:
                image = read_image(self.listing.files[id_])
            except DataError:
                continue
            yield self._names(id_, image.facts), image.pixels

    def _choose_channels(self) -> tuple[Channel, ...]:
        named = {id_: self._names(id_, facts) for id_, facts in self.survey.facts.items()}
        for id_, names in named.items():
            if len(set(names)) != len(names):
                raise UsageError("two bands of one file have the same name", where=id_, why=", ".join(names))
        combinations = Counter(named.values())
        every = list(dict.fromkeys(name for names in combinations for name in names))
        shared = [name for name in every if all(name in names for names in combinations)]
        listed = "; ".join(f"{', '.join(names)} ({count} files)" for names, count in combinations.most_common(6))
        wanted = list(canonical(self.settings.channels) if self.settings.channels else in_order(shared))
        if not wanted:
            raise DataError(
                "the files have no channel in common",
                where=self.listing.root,
                why=listed,
                fix="name the bands of files with n bands, once for each n, such as --bands VV --bands VH,VV; "
                "or point at the files of one kind",
            )
        for name in wanted:
            if name not in every:
                raise UsageError(f"no file has a channel {name!r}", why=listed, fix=did_you_mean(name, every))
            missing = [id_ for id_, names in named.items() if name not in names]
            if missing and not self.settings.allow_missing_channel:
                raise DataError(
                    f"{len(missing)} of {len(named)} files have no channel {name!r}",
                    where=missing[0],
                    why=listed,
                    fix="add --allow-missing-channel to keep them without it, or leave the channel out of --channels",
                )
        return tuple(Channel(name, quantity_of(name, self._quantity)) for name in wanted)

    def _has_only_bytes(self) -> bool:
        """Whether no pixel can be anything else than a whole number from 0 to 255."""
        every = self.survey.facts.values()
        luminance = self.settings.colour_to_grey and any(facts.colour for facts in every)
        bytes_ = all(facts.dtype == "uint8" and not facts.gaps for facts in every)
        return bytes_ and not luminance and not self.settings.allow_missing_channel

    def _check_level(self) -> None:
        """Refuse a whole folder whose values belie the declared quantity, rather than image by image."""
        ids = list(self.survey.facts)
        reasons = [
            reason
            for item in self.read(_some(ids))
            for reason in [item.reason if isinstance(item, Rejected) else None]
            if reason is not None and reason.startswith(WRONG_LEVEL)
        ]
        if len(reasons) >= 4 or (reasons and len(reasons) == min(8, len(ids))):
            raise QuantityError(
                f"the values are no {self._quantity.value}",
                where=self.listing.root,
                why=f"in {len(reasons)} of the first images looked at; {reasons[0].removeprefix(WRONG_LEVEL)}",
                fix="declare what they are with --quantity:\n" + choices(),
            )

    def _describe(self, sources: list[Path]) -> dict[str, Any]:
        s = self.settings
        return {
            "kind": "image folder",
            "sources": [str(source) for source in sources],
            "quantity": self._quantity.value,
            "channels": [channel.name for channel in self.channels],
            "bands": [list(names) for names in s.bands],
            "allow_missing_channel": s.allow_missing_channel,
            "colour": "grey"
            if self._grey and not s.colour_to_grey
            else "luminance"
            if self._grey
            else "red green blue",
            "labels": None if s.labels is None else {"name": s.labels.name, "sha256": sha256_file(s.labels)},
            "key": None if self.labels is None else self.labels.key,
            "label_columns": None if self.labels is None else list(self.labels.label_names),
            "group": s.columns.group,
            "split": s.columns.split,
            "incidence": s.columns.incidence,
            "only_labelled": s.only_labelled,
            **({} if s.far_range == "right" else {"far_range": s.far_range}),
            "masks": {name: rule.value for name, rule in self._mask_rules.items()},
            "boxes": None if s.boxes is None else {"name": s.boxes.name, "sha256": sha256_file(s.boxes)},
        }

    def _read_one(self, id_: str) -> Imagette | Rejected:
        path = self.listing.files.get(id_)
        if path is None:  # planned by an earlier run
            return Rejected(id_, _MISSING)
        try:
            image = read_image(path)
            pixels = self._select(id_, image.pixels, image.facts)
            calibrated = [c for c, channel in enumerate(self.channels) if channel.quantity is self._quantity]
            check_values(pixels[calibrated], self._quantity)
            size = pixels.shape[1:]
            check_turnable(image, self.settings.far_range)
            return Imagette(
                pixels=pixels,
                channels=self.channels,
                metadata=self._metadata(id_, path, image.metadata),
                labels={} if self.labels is None else self._labels_of(id_),
                masks=self._masks_of(id_, size),
                boxes=self._boxes_of(id_, size),
            ).turned(self.settings.far_range)
        except FileNotFoundError:  # gone between two looks at it
            return Rejected(id_, _MISSING)
        except DataError as error:
            return Rejected(id_, error.why or error.what)

    def _select(self, id_: str, pixels: NDArray[np.float32], facts: Facts) -> NDArray[np.float32]:
        """The channels of this source, in its order, from the bands of a file."""
        if facts.colour and self._grey:
            if not self.settings.colour_to_grey:
                unequal = float(np.mean(pixels.max(axis=0) != pixels.min(axis=0)))
                raise DataError(
                    "a colour image",
                    why=f"a colour image among grey ones ({100 * unequal:.2g} % of its pixels are coloured); "
                    "--colour-to-grey takes its luminance",
                )
            pixels = np.tensordot(_LUMINANCE, pixels[:3], axes=1)[None]
        declared = self.survey.facts.get(id_)
        if declared is not None and declared.colour and not self._grey and len(pixels) == 1:
            pixels, facts = np.repeat(pixels, 3, axis=0), declared  # a grey one among colour images
        names = self._names(id_, facts)
        if any(c.quantity is not self._quantity for c in self.channels):
            pixels = linear_ratios(pixels, names, self._quantity)
        missing = [c.name for c in self.channels if c.name not in names]
        if missing and not self.settings.allow_missing_channel:
            raise DataError("a channel is missing", why=f"it has {', '.join(names)}, and no {', '.join(missing)}")
        for c in self.channels:  # told apart here from a channel that the file does not have
            if c.name in names and not np.isfinite(pixels[names.index(c.name)]).any():
                raise DataError("a channel is empty", why=f"no valid pixel in {c.name}: every one is NaN or infinite")
        planes = [
            pixels[names.index(c.name)] if c.name in names else np.full(pixels.shape[1:], np.nan, np.float32)
            for c in self.channels
        ]
        return np.stack(planes).astype(np.float32, copy=False)

    def _metadata(self, id_: str, path: Path, from_file: dict[str, Any]) -> Metadata:
        row = self.labels.rows.get(id_) if self.labels is not None else None
        facts: dict[str, Any] = metadata_from_path(path.as_posix()) | from_file | (row.metadata if row else {})
        if "polarisations" not in facts and all(c.name in POLARISATIONS for c in self.channels):
            facts["polarisations"] = ",".join(c.name for c in self.channels)
        with path.open("rb") as handle:
            content_hash = hashlib.file_digest(handle, "sha256").hexdigest()
        return Metadata(id=id_, source_uri=str(path), source_hash=content_hash, **facts)

    def _labels_of(self, id_: str) -> dict[str, Any]:
        assert self.labels is not None
        row = self.labels.rows.get(id_)
        return dict.fromkeys(self.labels.label_names) if row is None else dict(row.labels)

    def _masks_of(self, id_: str, size: tuple[int, ...]) -> dict[str, NDArray[np.uint8]]:
        row = self.labels.rows.get(id_) if self.labels is not None else None
        if row is None:
            return {}
        return {name: read_mask(path, self._mask_rules[name], size) for name, path in row.masks.items()}

    def _boxes_of(self, id_: str, size: tuple[int, ...]) -> list[Any]:
        if self.boxes is None:
            return []
        declared = self.boxes.sizes.get(id_)
        if declared is not None and declared != (size[1], size[0]):
            raise DataError(
                "the size is not that of the box file",
                why=f"wrong size: {size[1]} x {size[0]} where the box file says {declared[0]} x {declared[1]}",
            )
        return list(self.boxes.rows.get(id_, []))


def _some(ids: list[str]) -> list[str]:
    """Up to eight of many, spread over all."""
    return ids[:: max(1, len(ids) // 8)][:8]


def _is_quicklook(id_: str, facts: Facts) -> bool:
    measurement = parse_measurement(id_.rsplit("/", 1)[-1])
    return measurement is not None and measurement.kind == "QL" and facts.dtype == "uint8"


def _absolute(files: dict[str, Path]) -> list[tuple[str, str]]:
    return [(id_, path.as_posix()) for id_, path in files.items()]
