"""What preprocessing does to pixels: pure functions of images, quantities and catalogue rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell.errors import QuantityError
from groundswell.physics.geometry import incidence_profile
from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import convert

_NEEDS_INCIDENCE = {Quantity.SIGMA0, Quantity.SIGMA0_DB}  # to or from roughness_db


def name_of(rows: pd.DataFrame, position: int) -> str:
    """What to call an image in a message."""
    return str(rows["id"].iloc[position]) if "id" in rows else f"image {position}"


def converted(
    plane: NDArray[np.float32] | Tensor, given: Quantity, wanted: Quantity, rows: pd.DataFrame | None
) -> NDArray[np.float32] | Tensor:
    """One channel ``[N, H, W]`` in the quantity wanted."""
    incidence = None
    if (Quantity.ROUGHNESS_DB in (given, wanted)) and ({given, wanted} & _NEEDS_INCIDENCE):
        incidence = incidence_of(rows, plane.shape[-1])
    if isinstance(plane, Tensor):
        converted = convert(plane.cpu().numpy(), given, wanted, incidence)
        return torch.as_tensor(converted, device=plane.device)
    return convert(plane, given, wanted, incidence)


def incidence_of(rows: pd.DataFrame | None, width: int) -> NDArray[np.float64]:
    """Incidence (degrees) of every column, float64 ``[N, W]``, from catalogue rows.

    From the near and far incidence; a chip that knows only that of its centre has it in every column.

    Raises
    ------
    QuantityError
        Where neither is known.
    """
    columns = ("incidence_near_deg", "incidence_far_deg", "incidence_deg")
    why = "the sea's mean backscatter depends on the incidence of each column"
    fix = (
        "give the columns incidence_near_deg and incidence_far_deg in the labels file when ingesting (for one image "
        "file, --incidence of `groundswell search`), or use an encoder that takes the quantity that the images have"
    )
    if rows is None:
        raise QuantityError("converting to or from roughness needs the incidence", why=why, fix=fix)
    unknown = np.full(len(rows), np.nan)
    near, far, centre = (rows[c].to_numpy(dtype=np.float64, na_value=np.nan) if c in rows else unknown for c in columns)
    both = np.isfinite(near + far)
    near, far = np.where(both, near, centre), np.where(both, far, centre)
    missing = np.isnan(near)
    if missing.any():
        raise QuantityError(
            "converting to or from roughness needs the incidence",
            where=f"{name_of(rows, int(np.flatnonzero(missing)[0]))} ({int(missing.sum())} of {len(rows)} images)",
            why=why,
            fix=fix,
        )
    return incidence_profile(near, far, width)


def standardised(images: Tensor) -> Tensor:
    """``[N, C, H, W]`` with zero mean and unit variance per image and channel, over pixels that are not NaN."""
    valid = ~torch.isnan(images)
    count = valid.sum((-2, -1), keepdim=True).clamp(min=1)
    filled = torch.where(valid, images, 0.0).double()  # 8-bit or raw DN: float32 sums would lose digits
    mean = filled.sum((-2, -1), keepdim=True) / count
    centred = torch.where(valid, images.double() - mean, 0.0)
    deviation = torch.sqrt(centred.square().sum((-2, -1), keepdim=True) / count)
    scaled = (images.double() - mean) / deviation.clamp(min=1e-6 * mean.abs().clamp(min=1e-6))
    return scaled.to(images.dtype)


def ring_median(images: Tensor) -> Tensor:
    """Median ``[N, C]`` of the outermost ring of pixels of ``[N, C, H, W]``, NaN left out.

    Where the ring holds no number, the median of the whole image; where that holds none either, 0.
    """
    ring = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]], dim=-1)
    median = ring.nanquantile(0.5, dim=-1)
    if bool(torch.isnan(median).any()):
        median = torch.where(torch.isnan(median), images.flatten(-2).nanmedian(dim=-1).values, median)
    return torch.nan_to_num(median)
