"""The ways out of an archive: an xarray dataset that reads on demand, and a torch dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import xarray as xr
from torch.utils.data import Dataset
from xarray.backends import BackendArray
from xarray.core import indexing

from groundswell.physics.imagette import Quantity

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive

DIMENSIONS = ("imagette", "azimuth", "range")

CF_ATTRIBUTES: dict[Quantity, dict[str, str]] = {
    Quantity.SIGMA0: {
        "standard_name": "surface_backwards_scattering_coefficient_of_radar_wave",
        "long_name": "normalised radar cross-section, linear",
        "units": "1",
    },
    Quantity.SIGMA0_DB: {
        "standard_name": "surface_backwards_scattering_coefficient_of_radar_wave",
        "long_name": "normalised radar cross-section",
        "units": "dB",
    },
    Quantity.ROUGHNESS_DB: {
        "long_name": "normalised radar cross-section relative to CMOD5.N at 10 m/s and 45 degrees",
        "units": "dB",
    },
    Quantity.AMPLITUDE: {"long_name": "uncalibrated amplitude", "units": "1"},
    Quantity.RATIO: {"long_name": "ratio of VV to VH, linear", "units": "1"},
    Quantity.QUICKLOOK: {"long_name": "grey level between the 1st and 99th percentile", "units": "1"},
}

_UNITS = {"_deg": "degrees", "_m": "m", "_db": "dB"}
_COORDINATES = {
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "time": {"standard_name": "time"},
}


class _Channel(BackendArray):
    """One channel of an archive (or one mask) as an array that xarray indexes without loading it all."""

    def __init__(self, archive: Archive, channel: int | str) -> None:
        self.archive, self.channel = archive, channel
        self.shape = (len(archive), archive.height, archive.width)
        self.dtype = np.dtype(np.uint8 if isinstance(channel, str) else np.float32)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        first, *rest = key
        rows = np.arange(len(self.archive))[first]
        positions = np.atleast_1d(rows)
        if isinstance(self.channel, str):
            values: Any = self.archive.masks(positions)[self.channel]
        else:
            values = self.archive.read(positions)[:, self.channel]
        return values[(slice(None) if np.ndim(rows) else 0, *rest)]


def to_xarray(archive: Archive) -> xr.Dataset:
    """An archive as a dataset whose pixels are read when asked for.

    One float32 variable per channel and one uint8 variable per mask, ``(imagette, azimuth, range)``; catalogue columns
    along ``imagette``. Attributes follow CF 1.11 where it has a name for the thing.
    """
    variables: dict[str, xr.Variable] = {}
    for c, channel in enumerate(archive.channels):
        attributes: dict[str, Any] = CF_ATTRIBUTES[channel.quantity] | {"quantity": channel.quantity.value}
        variables[channel.name] = _lazy(_Channel(archive, c), attributes)
    for name in archive.schema.masks:
        attributes = {
            "long_name": f"mask of {name}",
            "flag_values": np.array([0, 1], np.uint8),
            "missing_value": np.uint8(255),
        }
        variables[f"mask_{name}"] = _lazy(_Channel(archive, name), attributes)
    for label, column in archive.catalogue.items():
        name = str(label)
        values = column.to_numpy()
        if values.dtype.kind not in "biufM" and name != "footprint":
            values = column.astype(object).where(column.notna(), "").to_numpy(dtype=object)
        if str(column.dtype).startswith("datetime64"):
            values = column.dt.tz_convert(None).to_numpy()
        variables[name] = xr.Variable(("imagette",), values, _attributes(name))
    dataset = xr.Dataset(variables, attrs={"Conventions": "CF-1.11", "source": str(archive.schema.source)})
    return dataset.set_coords(["id", *_COORDINATES])


def _lazy(array: _Channel, attributes: dict[str, Any]) -> xr.Variable:
    return xr.Variable(DIMENSIONS, indexing.LazilyIndexedArray(array), attributes)


def _attributes(column: str) -> dict[str, str]:
    known = _COORDINATES.get(column)
    if known is not None:
        return known
    return next(({"units": unit} for suffix, unit in _UNITS.items() if column.endswith(suffix)), {})


class ImagetteDataset(Dataset[dict[str, Any]]):
    """An archive for ``torch.utils.data``: ``{"pixels": float32 [C, H, W], "row": int, "id": str}`` each.

    Whole batches are read at once. With a memory-mapped archive worker processes make reading slower, not faster
    (measured: 14 times), so leave ``num_workers`` at 0.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._ids: list[str] = archive.catalogue["id"].tolist()

    def __len__(self) -> int:
        return len(self.archive)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        pixels = torch.from_numpy(self.archive.read(np.asarray(rows, dtype=np.int64)))
        return [
            {"pixels": cast(torch.Tensor, p), "row": int(r), "id": self._ids[r]}
            for p, r in zip(pixels, rows, strict=True)
        ]
