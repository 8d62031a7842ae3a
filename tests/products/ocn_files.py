"""Level-2 wave-mode files of known content, classic and NetCDF-4, loose and in products, for the tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np

NAME = "s1c-wv1-ocn-vv-20260102t030405-20260102t030408-001234-00abcd-{:03d}.nc"
FILL = -999.0
ONE, CELLS = ("oswAzSize", "oswRaSize"), ("owiAzSize", "owiRaSize")
PARTS = (*ONE, "oswPartitions")


def contents(
    owi_heading: float = 348.0, **changes: object
) -> dict[str, tuple[tuple[str, ...], np.ndarray, float | int]]:
    """Variables of a level-2 file: dimensions, values, fill value."""
    wind = np.full((3, 4), 8.0, np.float32)
    wind[0] = FILL
    mask = np.zeros((3, 4), np.int8)
    mask[1, :2] = 1  # land, whose wind and backscatter count for nothing
    wind[1, :2] = 40.0
    direction = np.full((3, 4), 350.0, np.float32)
    direction[2] = 10.0
    direction[1, 2:] = 10.0
    direction[2, :3] = 350.0
    nrcs = np.full((3, 4, 1), 0.1, np.float32)
    nrcs[0] = FILL
    nrcs[1, :2] = 3.0
    found = {
        "oswLon": (ONE, np.float32([[-179.5]]), FILL),
        "oswLat": (ONE, np.float32([[-60.25]]), FILL),
        "oswHeading": (ONE, np.float32([[350.0]]), FILL),
        "oswIncidenceAngle": (ONE, np.float32([[23.5]]), FILL),
        "oswHs": (PARTS, np.float32([[[2.5, 1.0, -1.0, np.nan, FILL]]]), FILL),
        "oswWl": (PARTS, np.float32([[[310.0, -1.0, -1.0, np.nan, FILL]]]), FILL),
        "oswDirmet": (PARTS, np.float32([[[200.0, 10.0, -1.0, np.nan, FILL]]]), FILL),
        "oswQualityFlagPartition": (PARTS, np.int8([[[0, 4, -128, -128, -128]]]), -128),
        "oswTotalHs": (ONE, np.float32([[3.25]]), FILL),
        "oswWindSeaHs": (ONE, np.float32([[-1.0]]), FILL),
        "oswAzCutoff": (ONE, np.float32([[210.0]]), FILL),
        "oswWindSpeed": (ONE, np.float32([[7.5]]), FILL),
        "oswWindDirection": (ONE, np.float32([[15.0]]), FILL),
        "oswEcmwfWindSpeed": (ONE, np.float32([[7.0]]), FILL),
        "oswEcmwfWindDirection": (ONE, np.float32([[12.0]]), FILL),
        "oswNrcs": (ONE, np.float32([[-9.5]]), FILL),
        "oswLandCoverage": (ONE, np.float32([[25.0]]), FILL),
        "oswQualityFlag": (ONE, np.int8([[1]]), -128),
        "owiWindSpeed": (CELLS, wind, FILL),
        "owiWindDirection": (CELLS, direction, FILL),
        "owiHeading": (CELLS, np.full((3, 4), owi_heading, np.float32), FILL),
        "owiMask": (CELLS, mask, -128),
        "owiNrcsNeszCorr": ((*CELLS, "owiPolarisation"), nrcs, FILL),
        "owiNesz": ((*CELLS, "owiPolarisation"), np.where(nrcs < 0, nrcs, nrcs / np.float32(10.0)), FILL),
    }
    for name, value in changes.items():
        dimensions, old, fill = found[name]
        found[name] = (dimensions, np.full_like(old, value), fill)
    return found


def write_classic(path: Path, variables: dict, processed: str = "2026-01-02T06:00:00Z", ipf: str = "004.02") -> Path:
    from scipy.io import netcdf_file

    with netcdf_file(path, "w") as file:
        file.IPFversion, file.processingStartTime, file.missionName = ipf, processed, "S1C"
        for name, (dimensions, values, fill) in variables.items():
            for dimension, size in zip(dimensions, values.shape, strict=True):
                if dimension not in file.dimensions:
                    file.createDimension(dimension, size)
            variable = file.createVariable(name, values.dtype, dimensions)
            variable[:] = values
            variable._FillValue = values.dtype.type(fill)
    return path


def write_hdf5(path: Path, classic: Path) -> Path:
    """The same content as NetCDF-4, by an independent library; fill values and raw numbers as they are."""
    import xarray as xr

    with xr.open_dataset(classic, engine="scipy", mask_and_scale=False) as data:
        data.to_netcdf(path, engine="h5netcdf")
    return path


def write_ocn_product(
    folder: Path,
    files: dict[str, dict],
    container: Literal["folder", "zip", "tar"] = "folder",
    name: str = "S1B_WV_OCN__2SSV_20210403T083025_20210403T083058_026300_032390_0CE4",
    **attributes: str,
) -> Path:
    """A level-2 product of ``files`` (name to variables), as a SAFE folder or packed; its path."""
    safe = folder / f"{name}.SAFE"
    (safe / "measurement").mkdir(parents=True)
    (safe / "manifest.safe").write_text("<xfdu/>")
    for file, variables in files.items():
        write_classic(safe / "measurement" / file, variables, **attributes)
    if container == "folder":
        return safe
    packed = Path(shutil.make_archive(str(folder / name), container, folder, safe.name))
    shutil.rmtree(safe)
    return packed
