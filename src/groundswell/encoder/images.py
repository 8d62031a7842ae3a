"""Single image files as imagettes, for an encoder to look at: a query of a search, a handful of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundswell.errors import QuantityError, UsageError
from groundswell.physics.imagette import Box, Channel, FarRange, Imagette, Metadata, Quantity, turn, turn_box
from groundswell.physics.quantities import choices
from groundswell.products.folder.files import check_turnable, read_image
from groundswell.products.folder.images import SINGLE
from groundswell.products.names import metadata_from_path, parse_measurement

Crop = tuple[int, int, int, int]


def open_image(
    path: str | Path,
    *,
    quantity: Quantity | str | None = None,
    crop: Crop | None = None,
    far_range: FarRange = "right",
    incidence: tuple[float, float] | None = None,
) -> Imagette:
    """An image file as an imagette.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF, ``.npy`` or NetCDF.
    quantity : Quantity, optional
        What the pixels are; only a Sentinel-1 quick-look says so by its name.
    crop : (x, y, width, height), optional
        The part to take, px of the file from its left top corner.
    far_range : "right", "up", "left" or "down"
        The side of the image on which far range lies; it is turned so that it lies on the right, as
        `groundswell ingest --far-range` turns those of an archive.
    incidence : (first, last), optional
        Incidence (degrees) of the first and of the last column of the whole image, as turned, which most files
        cannot tell.

    Raises
    ------
    DataError
        When the file cannot be read.
    QuantityError
        When the quantity is not given and the file does not say.
    UsageError
        When the crop does not lie in the image, the quantity is unknown, or the incidence is not between 0 and 90.
    """
    path = Path(path)
    image = read_image(path)
    name = parse_measurement(path.name)
    if quantity is None:
        if name is None or name.kind != "QL":
            raise QuantityError(
                "the file does not say what its pixels are",
                where=path,
                fix=f"pass --quantity (in Python quantity=) with one of\n{choices()}",
            )
        quantity = Quantity.QUICKLOOK
    if quantity not in set(Quantity):
        raise UsageError(f"no quantity is called {str(quantity)!r}", fix=f"one of\n{choices()}")
    pixels = image.pixels
    if image.facts.names is not None:
        names = image.facts.names
    elif len(pixels) == 1:
        names = (name.polarisation if name else SINGLE,)
    else:
        names = tuple(f"band{i + 1}" for i in range(len(pixels)))
    check_turnable(image, far_range)
    metadata: dict[str, Any] = {**metadata_from_path(str(path)), **image.metadata}
    if incidence is not None:
        if not all(0.0 < angle < 90.0 for angle in incidence):
            raise UsageError(
                "an incidence lies between 0 and 90 degrees",
                where=path,
                why=f"{incidence[0]:g} and {incidence[1]:g} are given",
                fix="Sentinel-1 looks at the sea from 18 to 47 degrees: 23.5 for WV1, 36.5 for WV2",
            )
        metadata |= dict(zip(("incidence_near_deg", "incidence_far_deg"), incidence, strict=True))
        metadata["incidence_deg"] = sum(incidence) / 2.0
    if crop is not None:
        x, y, width, height = crop
        if min(x, y) < 0 or min(width, height) < 1 or x + width > pixels.shape[2] or y + height > pixels.shape[1]:
            raise UsageError(
                "the crop does not lie in the image",
                where=path,
                why=f"{width} x {height} px from ({x}, {y}) in an image of {pixels.shape[2]} x {pixels.shape[1]} px",
                fix="give --crop x,y,width,height in pixels from the left top corner",
            )
        box = turn_box(Box("", x, y, width, height), pixels.shape[1:], far_range)
        x, y, width, height = (int(length) for length in (box.x, box.y, box.width, box.height))
    pixels = turn(pixels, far_range)
    if crop is not None:
        near, far = metadata.get("incidence_near_deg"), metadata.get("incidence_far_deg")
        if near is not None and far is not None and pixels.shape[2] > 1:
            step = (far - near) / (pixels.shape[2] - 1)
            metadata |= {"incidence_near_deg": near + step * x, "incidence_far_deg": near + step * (x + width - 1)}
        pixels = pixels[:, y : y + height, x : x + width]
    channels = tuple(Channel(n, Quantity(quantity)) for n in names)
    return Imagette(pixels, channels, Metadata(id=path.name, **metadata))
