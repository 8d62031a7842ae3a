"""One image of a SAFE product, with its polarisations as channels: its facts, its place, its calibrated pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from groundswell.errors import ProductError, UsageError
from groundswell.physics.footprint import footprint
from groundswell.physics.imagette import Metadata
from groundswell.physics.multilook import Filter
from groundswell.products.safe.annotation import Annotation
from groundswell.products.safe.container import Container
from groundswell.products.safe.geolocation import Geolocation
from groundswell.products.safe.image import CALIBRATIONS, Files, SafeImage

if TYPE_CHECKING:
    import xarray as xr


class Scene:
    """One image: a wave-mode imagette, a stripmap or TOPS swath, or a ground-range scene.

    Attributes
    ----------
    key : int or str
        The image number (wave mode) or the swath, as in the product.
    polarisations : tuple of str
        In the order VV, VH, HH, HV, as far as the product has their annotation.
    annotation : Annotation
        Of the first polarisation that has a sound one: size, time and place of the image.
    simulated : bool
        As of its product: no radar has seen it.

    Raises
    ------
    ProductError
        When no annotation can be read. Calibration, noise and pixels are opened when they are asked for.
    """

    def __init__(
        self,
        container: Container,
        key: int | str,
        files: Sequence[Files],
        ipf_version: str | None,
        *,
        simulated: bool = False,
    ) -> None:
        order = ("VV", "VH", "HH", "HV")
        self.key = key
        self.product_id = container.product
        self.ipf_version = ipf_version
        self.simulated = simulated
        self._container = container
        files = sorted(files, key=lambda f: order.index(f.name.polarisation))
        self._files = {f.name.polarisation: f for f in files}
        there = tuple(p for p, f in self._files.items() if f.annotation in container.members)
        self.polarisations = there or tuple(self._files)
        self._images: dict[str, SafeImage] = {}
        self.annotation = self._lead()

    def _lead(self) -> Annotation:
        """The annotation of the first polarisation that has a sound one; the others stay as damaged as they are."""
        first: ProductError | None = None
        for polarisation in self.polarisations:
            try:
                return self.image(polarisation).annotation
            except ProductError as error:
                first = first or error
        assert first is not None
        raise first

    def __repr__(self) -> str:
        a = self.annotation
        return (
            f"<Scene {self.key!r} of {self.product_id}: {a.header.swath} {a.header.kind} {'+'.join(self.polarisations)}"
            f", {a.lines} lines of {a.samples} pixels, {a.first_line:%Y-%m-%d %H:%M:%S} UTC>"
        )

    def image(self, polarisation: str) -> SafeImage:
        """One polarisation: its annotation, tables and pixels.

        Raises
        ------
        ProductError
            When the product has no such polarisation, its annotation is damaged, or it differs in size from the first.
        """
        if polarisation not in self._files:
            raise ProductError(
                f"the image has no polarisation {polarisation!r}",
                where=f"{self._container.path} [{self.key!r}]",
                fix=f"one of {', '.join(self._files)}",
            )
        if polarisation not in self._images:
            image = SafeImage(self._container, self._files[polarisation], self.ipf_version)
            for other in self._images.values():
                sizes = [(a.lines, a.samples, a.complex, a.slant) for a in (image.annotation, other.annotation)]
                if sizes[0] != sizes[1]:
                    raise ProductError(
                        "the polarisations of the image differ in size or kind",
                        where=self._container.where(image.files.annotation),
                        why=f"{sizes[0]} and {sizes[1]}",
                    )
            self._images[polarisation] = image
        return self._images[polarisation]

    @property
    def source(self) -> str:
        """Whom the image is from: what the Copernicus licence asks to be said, unless it is simulated."""
        year = self.annotation.first_line.year
        return "Simulated: no real image" if self.simulated else f"Contains modified Copernicus Sentinel data {year}"

    @property
    def geolocation(self) -> Geolocation:
        """Longitude, latitude and incidence at any line and pixel."""
        return self.annotation.geolocation

    @property
    def shape(self) -> tuple[int, int]:
        """(lines, samples)."""
        return self.annotation.lines, self.annotation.samples

    @cached_property
    def metadata(self) -> Metadata:
        """The facts of the image on its native grid; those of its pixels (noise, valid fraction) are in the dataset."""
        a, lines, samples = self.annotation, *self.shape
        middle = ([(lines - 1) / 2], [(samples - 1) / 2])
        lon, lat = self.geolocation.lonlat(*middle)
        near, centre, far = self.geolocation.incidence_at(middle[0], [0, (samples - 1) / 2, samples - 1])[0]
        name = self._files[self.polarisations[0]].name
        return Metadata(
            id=name.stem,
            product_id=self.product_id,
            image_number=self.key if isinstance(self.key, int) else None,
            mission=name.mission,
            beam=name.beam,
            mode=name.mode,
            polarisations="+".join(self.polarisations),
            time=a.first_line + (a.header.stop - a.header.start) / 2,
            lon=float(lon[0, 0]),
            lat=float(lat[0, 0]),
            footprint=footprint(self.geolocation.outline(lines, samples)),
            heading_deg=a.heading_deg,
            orbit=name.orbit,
            orbit_pass=a.orbit_pass,
            look="right",
            incidence_deg=float(centre),
            incidence_near_deg=float(near),
            incidence_far_deg=float(far),
            range_spacing_m=a.range_spacing_m,
            azimuth_spacing_m=a.azimuth_spacing_m,
            ipf_version=self.ipf_version,
            datatake=name.datatake,
            group=f"{name.mission}-{name.datatake}",
            source_uri=self._container.where(self._files[self.polarisations[0]].measurement),
        )

    def fingerprint(self, polarisations: Sequence[str]) -> str:
        """A hash of the files of these polarisations, the same in a folder, a zip or a tar.

        From the checksums of the manifest; a file without one is read. `ProductError` when it is missing.
        """
        digest = hashlib.sha256()
        for polarisation in polarisations:
            files = self._files[polarisation]
            for name in (files.annotation, files.calibration, files.noise, files.measurement):
                if name in self._container.members:
                    digest.update(f"{name} {self._checksum(name)}\n".encode())
        return digest.hexdigest()

    def _checksum(self, name: str) -> str:
        known = self._container.checksums.get(name)
        if known is not None:
            return known
        md5 = hashlib.md5(usedforsecurity=False)
        with self._container.stream(name) as stream:
            while data := stream.read(2**20):
                md5.update(data)
        return md5.hexdigest()

    def to_dataset(
        self,
        spacing_m: float | None = 50.0,
        calibration: str | None = "sigma0",
        denoise: bool = True,
        filter: Filter = "box",
        *,
        polarisations: str | Sequence[str] | None = None,
        lines: slice | None = None,
        pixels: slice | None = None,
    ) -> xr.Dataset:
        """The calibrated image as an xarray Dataset with named dimensions, CF units and geolocation.

        Parameters
        ----------
        spacing_m : float, optional
            Side of the square ground cells over which intensity is averaged; None gives the native grid (slant range
            for SLC), one value a pixel.
        calibration : "sigma0", "beta0", "gamma0" or None
            What the main variable is, and its name; None gives ``intensity``, the mean of |DN|^2, without ``nesz``
            (amplitude is its root), and opens neither calibration nor noise (the calibration of a GRD image of before
            IPF 2.90 it does: by it the dark border is told, see `groundswell.products.safe.border`).
        denoise : bool
            Subtract thermal noise, where its table is sound and it is not out already; attributes ``denoised`` and
            ``denoise_note`` say what was done. Values below zero are kept.
        filter : "box" or "kaiser"
            Window of the mean, see `groundswell.physics.multilook.weights`.
        polarisations : str or list of str, optional
            Which channels, all by default.
        lines, pixels : slice, optional
            Part of the native grid, first and last + 1.

        Returns
        -------
        xarray.Dataset
            Variables float32 (azimuth, range): ``sigma0`` (NaN where nothing is valid), ``valid`` (the share of the
            cell with data) and ``nesz`` (noise-equivalent sigma0 at the cell's centre, NaN where unknown). With
            several polarisations, or a list given, they have the first dimension ``polarisation``; with one it is a
            scalar coordinate. Coordinates: ``azimuth`` and ``range`` in metres from the edge of the image, ``line``
            and ``pixel`` of the native grid, ``time`` (azimuth), ``lon``, ``lat``, ``incidence`` (azimuth, range).
            Rows are in the order of time, columns from near to far range: nothing is turned to north.
            On the native grid nothing is read before it is looked at, and only the part that is looked at.
            ``border_note`` and ``statistics_note`` are there where a dark border was left out, and where the pixels of
            a whole image contradict the statistics of its annotation.

        Raises
        ------
        ProductError
            When a file is missing or damaged, or bursts of a TOPS SLC image would have to be averaged.
        UsageError
            When an argument makes no sense for this image.
        """
        from groundswell.products.safe.dataset import build_dataset

        if calibration is not None and calibration not in CALIBRATIONS:
            raise UsageError(
                f"no calibration is called {calibration!r}", fix=f"one of {', '.join(CALIBRATIONS)}, or None for |DN|^2"
            )
        if filter not in ("box", "kaiser"):
            raise UsageError(f"no filter is called {filter!r}", fix="box or kaiser")
        if spacing_m is not None and not 0.0 < spacing_m < 1e6:
            raise UsageError(f"cells of {spacing_m} m make no sense", fix="give spacing_m in metres, or None")
        if spacing_m is not None and self.annotation.bursts:
            raise ProductError(
                "the bursts of a TOPS SLC image overlap and are not averaged",
                where=f"{self._container.path} [{self.key!r}]",
                why=f"{self.annotation.bursts} bursts",
                fix="use the GRD product of the same acquisition, or spacing_m=None",
            )
        single = polarisations is None and len(self.polarisations) == 1
        chosen = [polarisations] if isinstance(polarisations, str) else list(polarisations or self.polarisations)
        return build_dataset(
            self,
            [self.image(p) for p in chosen],
            squeeze=single or isinstance(polarisations, str),
            window=(_whole(lines, self.shape[0], "lines"), _whole(pixels, self.shape[1], "pixels")),
            spacing_m=spacing_m,
            calibration=calibration,
            denoise=denoise,
            filter=filter,
        )


def _whole(part: slice | None, count: int, name: str) -> slice:
    start, stop, step = (part or slice(None)).indices(count)
    if step != 1 or stop <= start:
        raise UsageError(f"{name}={part} selects nothing of {count}", fix=f"slice(first, last + 1) within 0 to {count}")
    return slice(start, stop)
