"""A smooth random deformation of a view."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from groundswell import rng
from groundswell.views.operation import Operation, PixelScale, to_pixels
from groundswell.views.ranges import NotNegative

_SPREAD = 151 / 315  # sum of the squares of cubic B-splines, mean over a period: the variance left by one axis


class Elastic(Operation):
    """Every pixel moves by a smooth random displacement: a cubic B-spline through independent normal control points.

    Free-form deformation (Rueckert et al. 1999, IEEE TMI 18:712), with the purpose of Simard et al. 2003 (ICDAR).
    Sampled bilinearly; outside, the view is mirrored at its edges.

    Attributes
    ----------
    displacement : (low, high)
        Root mean square of each component, px, uniform.
    spacing : float
        Of the control points, px: displacements further apart than four of them are independent.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = (
        "direction",
        "wave period from the wavelength",
        "sizes",
        "the azimuth cut-off",
    )
    displacement: NotNegative = (0.0, 3.0)
    spacing: float = Field(default=16.0, ge=2)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        n, _, height, width = images.shape
        along_rows, along_columns = _basis(height, self.spacing), _basis(width, self.spacing)
        shape = (n, 2, along_rows.shape[1], along_columns.shape[1])
        control = rng.normal(keys, "Elastic/control", math.prod(shape[1:])).view(shape)
        control = to_pixels(self.draw(keys, "displacement", *self.displacement), control) / _SPREAD * control
        columns, rows = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        along_rows, along_columns, control, columns, rows = (
            t.to(images.device, images.dtype) for t in (along_rows, along_columns, control, columns, rows)
        )
        moved = along_rows @ control @ along_columns.T  # px, [n, (x, y), H, W]
        x = (moved[:, 0] + columns) * (2 / width) - 1
        y = (moved[:, 1] + rows[:, None]) * (2 / height) - 1
        grid = torch.stack([x, y], dim=-1)
        return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)


@lru_cache(maxsize=8)
def _basis(length: int, spacing: float) -> Tensor:
    """float32 ``[length, points]``: cubic B-splines at the centres of the px, one column a control point."""
    points = math.ceil(length / spacing) + 3
    away = ((torch.arange(length, dtype=torch.float64) + 0.5) / spacing)[:, None] - torch.arange(points) + 1
    t = away.abs()
    near = 2 / 3 - t**2 + t**3 / 2
    far = (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, near, far).float()
