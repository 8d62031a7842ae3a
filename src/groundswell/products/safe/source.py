"""Sentinel-1 products as a source of imagettes: calibrated, denoised, on square ground cells, screened, labelled.

A wave-mode imagette is one item, a larger scene is cut into chips. What is broken is set aside with its reason, what
is of no use to a model of the sea (land, ice, hardly any data, an implausible noise table) with the word `SCREENED`
and its reason.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, ProductError, UsageError, did_you_mean
from groundswell.files import sha256_file
from groundswell.physics.imagette import Channel, Imagette, Label, Metadata, Quantity
from groundswell.physics.quantities import looks_like_dn
from groundswell.products.folder.labels import Columns, Labels, join
from groundswell.products.folder.tables import read_table
from groundswell.products.land import RESOLUTION_DEG, is_land
from groundswell.products.references.ocn import OceanProduct
from groundswell.products.safe.find import find_products
from groundswell.products.safe.level2 import Level2
from groundswell.products.safe.listing import POLARISATIONS, list_products
from groundswell.products.safe.scene import Scene
from groundswell.products.safe.sentinel1 import Product, open_product
from groundswell.products.safe.settings import CHIP, IMAGETTE_M, REASONS, SafeSettings, screened
from groundswell.products.safe.tiles import Cells, Tile, read_cells, tiles
from groundswell.products.source import Rejected, reason_of

_OPEN = 4  # products kept open by one process
_LAND_STEP_M = RESOLUTION_DEG * 111_000.0 / 2.0  # two points a cell of the land mask


@dataclass(frozen=True, slots=True)
class Item:
    """An imagette: an image, and the chip of it unless it is whole."""

    image: str
    tile: Tile | None = None


class SafeProducts:
    """Imagettes of Sentinel-1 level-1 products: a `groundswell.products.source.Source`.

    Files are listed, and annotations of scenes read, when it is made; all else by `read`. Ids are the stem of the
    measurement, for chips ``<stem>/r<row>c<col>``, for products that groundswell simulated with ``sim-`` before it.

    Attributes
    ----------
    channels, mask_names, description, eight_bit
        As every source has them.
    size : (rows, columns)
        What the archive is to hold: of chips exactly, of wave-mode imagettes about.
    found : Found
        The files.
    listing : Listing
        Their products and images.
    items : dict
        Id to `Item`.
    broken : dict
        Id to the reason, of products and scenes that cannot be opened at all; they are items too.
    notes : list of str
        What the owner of the products should know.
    labels : Labels or None

    Raises
    ------
    UsageError, DataError
        When the settings do not fit the products, or there are none.
    """

    def __init__(self, sources: Sequence[str | Path], settings: SafeSettings | None = None) -> None:
        self.settings = settings or SafeSettings()
        self.found = find_products(sources)
        self.listing = list_products(self.found)
        self._open: OrderedDict[int, Product] = OrderedDict()
        self._band: tuple[object, Scene, Cells] | None = None
        self.images, self.broken = self.listing.images, dict(self.listing.broken)
        self.notes = list(self.listing.notes)
        if not self.images:
            reason = next(iter(self.broken.items()), None)
            raise DataError(
                "no Sentinel-1 image was found",
                where=", ".join(str(source) for source in sources),
                why=None if reason is None else f"{reason[0]}: {reason[1]}",
                fix="give Level-1 SLC or GRD products: SAFE folders, or .zip or .tar files with one inside",
            )
        self.size = self._size()
        self.channels = self._choose_channels()
        self.mask_names: tuple[str, ...] = ()
        self.eight_bit = False
        self.items = self._cut()
        self.labels = self._join()
        self._level2: dict[tuple[str, int, str, int], list[Level2]] = {}
        for one in self.found.level2:
            if (n := one.name) is not None:
                self._level2.setdefault((n.mission, n.orbit, n.datatake, n.image_number), []).append(one)
        self.notes += [f"{name}: {reason}" for name, reason in self.found.unreadable.items()]
        self.description: dict[str, Any] = self._describe()

    def ids(self) -> list[str]:
        """Every imagette and chip, and every product or scene that cannot be opened; sorted."""
        return sorted({*self.items, *self.broken})

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The items asked for, in that order.

        Raises
        ------
        DataError
            For an id that these products do not have.
        """
        unknown = [id_ for id_ in ids if id_ not in self.items and id_ not in self.broken]
        if unknown:
            raise DataError(
                "an imagette is in none of the products",
                where=unknown[0],
                fix="give the products that the archive was begun with, too",
            )
        return [self._read(id_) for id_ in ids]

    def level2_of(self, item: Item) -> list[Level2]:
        """The level-2 files of an imagette: same mission, orbit, datatake and image number."""
        return self._level2.get(self.images[item.image].keys, [])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict(), "_band": None}

    # What there is

    def _size(self) -> tuple[int, int]:
        s = self.settings
        side = round(IMAGETTE_M / s.spacing_m)
        wave = any(image.mode == "WV" for image in self.images.values())
        size = s.chip or ((side, side) if wave else CHIP)
        if not 0 <= s.overlap < min(size):
            raise UsageError(
                f"chips of {size[0]} x {size[1]} cells cannot share {s.overlap}",
                fix="the overlap is less than the size of a chip",
            )
        return size

    def _choose_channels(self) -> tuple[Channel, ...]:
        sets = [image.polarisations for image in self.images.values()]
        counts = {names: sets.count(names) for names in dict.fromkeys(sets)}
        listed = "; ".join(f"{'+'.join(names)} ({count} images)" for names, count in counts.items())
        every = [p for p in POLARISATIONS if any(p in names for names in counts)]
        wanted = self.settings.channels or tuple(p for p in every if all(p in names for names in counts))
        if not wanted:
            raise DataError(
                "the images have no polarisation in common",
                why=listed,
                fix="choose with --channels, and add --allow-missing-channel or ingest the others on their own",
            )
        for name in wanted:
            if name not in every:
                raise UsageError(f"no image has the polarisation {name!r}", why=listed, fix=did_you_mean(name, every))
            lacking = sum(count for names, count in counts.items() if name not in names)
            if lacking and not self.settings.allow_missing_channel:
                raise DataError(
                    f"{lacking} of {len(sets)} images have no polarisation {name}",
                    why=listed,
                    fix="add --allow-missing-channel to keep them without it, or leave it out of --channels",
                )
        return tuple(Channel(name, self.settings.quantity) for name in wanted)

    def _cut(self) -> dict[str, Item]:
        items: dict[str, Item] = {}
        for name, image in self.images.items():
            if image.mode == "WV":
                items[name] = Item(name)
                continue
            try:
                number, key = image.copies[0]
                scene = self._product(number)[key]
                if scene.annotation.bursts:
                    self.broken[name] = "the bursts of a TOPS SLC image overlap: use the GRD of the same acquisition"
                    continue
                cut = tiles(scene, self.settings.spacing_m, self.size, self.settings.overlap)
            except DataError as error:
                self.broken[name] = reason_of(error)
                continue
            items |= {f"{name}/{tile.name}": Item(name, tile) for tile in cut}
        return items

    def _join(self) -> Labels | None:
        s = self.settings
        if s.labels is None:
            if s.columns != Columns() or s.only_labelled:
                raise UsageError("columns of a label table are named, but no label table", fix="give --labels FILE")
            return None
        labels = join(read_table(s.labels), s.columns, ((id_, id_) for id_ in self.items), {})
        if s.only_labelled:
            self.items = {id_: item for id_, item in self.items.items() if id_ in labels.rows}
        self.notes += labels.notes
        if labels.unmatched_rows:
            rows = labels.unmatched_rows
            self.notes.append(f"{len(rows)} rows of the label table found no imagette: {rows[0]}")
        return labels

    def _describe(self) -> dict[str, Any]:
        """Settings alone, no paths: the same product, folder or zip, is the same source wherever it lies."""
        s = self.settings
        return {
            "kind": "SAFE products",
            "quantity": s.quantity.value,
            "spacing_m": s.spacing_m,
            "denoise": s.denoise,
            "filter": s.filter,
            "chip": {"size": list(self.size), "overlap": s.overlap},
            "channels": [channel.name for channel in self.channels],
            "allow_missing_channel": s.allow_missing_channel,
            "screening": {name: getattr(s.screening, name) for name in REASONS},
            "mask_land": s.mask_land,
            "labels": None if s.labels is None else {"name": s.labels.name, "sha256": sha256_file(s.labels)},
            "label_columns": None if self.labels is None else list(self.labels.label_names),
            "only_labelled": s.only_labelled,
            "level2": bool(self.found.level2),
        }

    # One item

    def _product(self, number: int) -> Product:
        if number not in self._open:
            self._open[number] = open_product(self.listing.products[number])
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _read(self, id_: str) -> Imagette | Rejected:
        if id_ in self.broken:
            return Rejected(id_, self.broken[id_])
        item = self.items[id_]
        reasons = []
        for number, key in self.images[item.image].copies:
            try:
                return self._imagette(id_, item, number, key)
            except DataError as error:
                reasons.append(reason_of(error))
        return Rejected(id_, reasons[0])

    def _imagette(self, id_: str, item: Item, number: int, key: int | str) -> Imagette | Rejected:
        s, screening = self.settings, self.settings.screening
        level2, labels = self._labels(id_, item)
        if level2 is not None and (level2.ice_fraction or 0.0) > screening.ice:
            return screened(id_, "ice", f"{level2.ice_fraction:.0%} of it, by {level2.id}")
        there = [c.name for c in self.channels if c.name in self.images[item.image].polarisations]
        scene, cells = self._cells(number, key, there, item.tile)
        if screening.nesz and s.quantity is Quantity.SIGMA0:
            for name in there:
                if "implausible" in (note := scene.image(name).denoising.note):
                    return screened(id_, "nesz", f"{name}: {note}")
        for name in there:
            image = scene.image(name)
            if (against := image.contradiction) is not None:
                file = image.container.where(image.files.measurement)
                raise ProductError("the pixels are not those that the annotation describes", where=file, why=against)
        land = self._land(cells)
        if land is not None:
            if (share := float(land.mean())) > screening.land:
                return screened(id_, "land", f"{share:.0%} of it")
            if s.mask_land:
                cells.values[:, land] = np.nan  # the cells of this item alone, see `_cells`
                cells.valid[:, land] = 0.0
        valid = float(cells.valid.mean(axis=(1, 2)).min())
        if valid < screening.valid:
            return screened(id_, "valid", f"{valid:.0%} of its area has data")
        pixels = cells.values if s.quantity is Quantity.SIGMA0 else np.sqrt(cells.values)
        reason = looks_like_dn(pixels) if s.quantity is Quantity.SIGMA0 else None
        if reason is not None:
            return Rejected(id_, f"wrong level: {reason}")
        planes = dict(zip(there, pixels, strict=True))
        empty = np.full(pixels.shape[1:], np.nan, np.float32)
        return Imagette(
            pixels=np.stack([planes.get(c.name, empty) for c in self.channels]),
            channels=self.channels,
            metadata=self._metadata(id_, scene, cells, there, item.tile),
            labels=labels,
        )

    def _cells(self, number: int, key: int | str, polarisations: list[str], tile: Tile | None) -> tuple[Scene, Cells]:
        """The cells of an item, a copy of its own; of a scene the band of lines that all chips of one row share."""
        s = self.settings
        calibration = "sigma0" if s.quantity is Quantity.SIGMA0 else None
        band = (number, key, tuple(polarisations), None if tile is None else tile.start[0])
        if tile is None or self._band is None or self._band[0] != band:
            scene = self._product(number)[key]
            rows = None if tile is None else (tile.start[0], tile.size[0])
            cells = read_cells(scene, polarisations, s.spacing_m, calibration, s.denoise, s.filter, rows)
            if tile is None:
                return scene, cells
            self._band = (band, scene, cells)
        _, scene, cells = self._band
        columns = slice(tile.start[1], tile.start[1] + tile.size[1])
        part = cells.part(slice(None), columns)
        return scene, replace(part, values=part.values.copy(), valid=part.valid.copy())

    def _land(self, cells: Cells) -> NDArray[np.bool_] | None:
        """Which cells are land (with `mask_land`), or which of some of them, enough for a share; None if not asked."""
        if self.settings.mask_land:
            return is_land(cells.lon, cells.lat)
        if self.settings.screening.land >= 1.0:
            return None
        step = max(1, int(_LAND_STEP_M / self.settings.spacing_m))
        return is_land(cells.lon[::step, ::step], cells.lat[::step, ::step])

    def _labels(self, id_: str, item: Item) -> tuple[OceanProduct | None, dict[str, Label]]:
        """The level-2 product of an item, the last processed where there are several, and all its labels."""
        labels: dict[str, Label] = {}
        level2 = None
        if self._level2 and self.images[item.image].mode == "WV":
            opened, problem = [], None
            for one in self.level2_of(item):
                try:
                    opened.append(one.open())
                except DataError as error:
                    problem = problem or reason_of(error)
            if opened:
                level2 = max(opened, key=lambda product: product.processed or "")
                labels |= level2.labels()
            labels |= {"ocn_id": None if level2 is None else level2.id, "ocn_problem": problem}
        if self.labels is not None:
            row = self.labels.rows.get(id_)
            labels |= dict.fromkeys(self.labels.label_names) if row is None else row.labels
        return level2, labels

    def _metadata(self, id_: str, scene: Scene, cells: Cells, polarisations: list[str], tile: Tile | None) -> Metadata:
        rows, columns = len(cells.lines), len(cells.pixels)
        lon, lat = scene.geolocation.lonlat([cells.lines.mean()], [cells.pixels.mean()])
        near, far = (float(cells.incidence[rows // 2, c]) for c in (0, columns - 1))
        middle = scene.geolocation.incidence_at([cells.lines.mean()], [cells.pixels.mean()])
        level = float(np.mean(cells.nesz[0]))  # of the first channel; NaN where it is not known
        content = scene.fingerprint(polarisations)
        if tile is not None:
            content = hashlib.sha256(
                f"{content} {tile.start} {tile.size} {self.settings.spacing_m}".encode()
            ).hexdigest()
        a = scene.annotation
        seconds = float(cells.lines.mean()) * a.line_interval_s
        row = None if self.labels is None else self.labels.rows.get(id_)
        facts: dict[str, Any] = {
            "id": id_,
            "polarisations": "+".join(polarisations),
            "time": a.first_line + timedelta(seconds=seconds),
            "lon": float(lon[0, 0]),
            "lat": float(lat[0, 0]),
            "footprint": cells.footprint(scene),
            "incidence_deg": float(middle[0, 0]),
            "incidence_near_deg": near,
            "incidence_far_deg": far,
            "range_spacing_m": self.settings.spacing_m,
            "azimuth_spacing_m": self.settings.spacing_m,
            "nesz_db": 10.0 * float(np.log10(level)) if level > 0.0 else None,
            "denoised": cells.denoised,
            "source_hash": content,
        }
        return replace(scene.metadata, **facts | ({} if row is None else row.metadata))
