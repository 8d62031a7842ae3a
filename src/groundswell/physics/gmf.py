"""CMOD5.N: the C-band VV geophysical model function for 10 m equivalent neutral wind.

Sources: Hersbach (2008), ECMWF technical memorandum 554 (coefficients and form of CMOD5.N); Hersbach, Stoffelen and
de Haan (2007), J. Geophys. Res. 112, C03006 (CMOD5). Incidence is meant from 16 to 66 degrees, wind from 0.2 to 50 m/s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundswell.errors import QuantityError

_C = (
    # c1 .. c28 of CMOD5.N
    -0.6878, -0.7957, 0.3380, -0.1728, 0.0000, 0.0040, 0.1103, 0.0159, 6.7329, 2.7713, -2.2885, 0.4971, -0.7250, 0.0450,
    0.0066, 0.3222, 0.0120, 22.7000, 2.0813, 3.0000, 8.3659, -3.3428, 1.3236, 6.2437, 2.3893, 0.3249, 4.1590, 1.6930,
)  # fmt: skip

MINIMUM_WIND = 0.2
MAXIMUM_WIND = 50.0
_STEPS = 64
_ITERATIONS = 10  # leave 1e-6 m/s where the model is flattest; 4 do elsewhere


def _tensors(*values: Tensor | float) -> list[Tensor]:
    """The values as floating tensors of one dtype (float64 when nothing says otherwise) on one device."""
    given = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    dtype = torch.float64 if not given else given[0].dtype
    for tensor in given[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
    return [torch.as_tensor(v, dtype=dtype, device=device) for v in values]


def cmod5n(wind_speed: Tensor | float, phi_deg: Tensor | float, incidence_deg: Tensor | float) -> Tensor:
    """VV sigma0 (linear) of a sea with the given wind; gradients are finite everywhere.

    Parameters
    ----------
    wind_speed : [...]
        10 m equivalent neutral wind, m/s (negative values count as 0).
    phi_deg : [...]
        Meteorological wind direction (from) minus antenna look azimuth, degrees: 0 is wind blowing at the radar.
    incidence_deg : [...]
        Degrees.

    Returns
    -------
    [...] of the broadcast shape; float64 for plain numbers.

    Source: Hersbach (2008), ECMWF technical memorandum 554.
    """
    speed, phi, incidence = _tensors(wind_speed, phi_deg, incidence_deg)
    # At exactly 0 m/s the power law below has no derivative; a micrometre per second has the same sigma0.
    speed = speed.clamp(min=1e-6)
    c = (0.0, *_C)  # so that c[1] is c1, as published
    x = (incidence - 40.0) / 25.0

    a0 = c[1] + x * (c[2] + x * (c[3] + x * c[4]))
    a1 = c[5] + c[6] * x
    a2 = c[7] + c[8] * x
    gamma = c[9] + x * (c[10] + x * c[11])
    s0 = c[12] + c[13] * x  # negative beyond 57 degrees: the branch s < s0 is then never taken
    s = a2 * speed
    a3 = torch.sigmoid(torch.maximum(s, s0))
    # The branch s < s0 continues the logistic by a power law; where it does not apply its argument is 1, so that
    # the gradient of the branch not taken is 0 and not NaN.
    low = s < s0
    ratio = torch.where(low, s, torch.ones_like(s)) / torch.where(low, s0, torch.ones_like(s))
    a3 = torch.where(low, a3 * ratio.abs().clamp(min=1e-12) ** (s0 * (1.0 - a3)), a3)
    b0 = a3**gamma * 10.0 ** (a0 + a1 * speed)

    b1 = c[15] * speed * (0.5 + x - torch.tanh(4.0 * (x + c[16] + c[17] * speed)))
    b1 = (c[14] * (1.0 + x) - b1) / (1.0 + torch.exp(0.34 * (speed - c[18])))

    y0, n = c[19], c[20]
    a, b = y0 - (y0 - 1.0) / n, 1.0 / (n * (y0 - 1.0) ** (n - 1.0))
    v0 = c[21] + x * (c[22] + x * c[23])
    d1 = c[24] + x * (c[25] + x * c[26])
    d2 = c[27] + x * c[28]
    v2 = speed / v0 + 1.0
    v2 = torch.where(v2 < y0, a + b * (v2.clamp(max=y0) - 1.0) ** n, v2)
    b2 = (-d1 + d2 * v2) * torch.exp(-v2)

    angle = phi * (math.pi / 180.0)
    return b0 * (1.0 + b1 * torch.cos(angle) + b2 * torch.cos(2.0 * angle)).clamp(min=1e-12) ** 1.6


def invert_cmod5n(sigma0: Tensor | float, phi_deg: Tensor | float, incidence_deg: Tensor | float) -> Tensor:
    """Wind speed (m/s) at which CMOD5.N gives ``sigma0``: the lowest solution between 0.2 and 50 m/s.

    Parameters
    ----------
    sigma0 : [...]
        VV, linear. Below the model at 0.2 m/s the answer is 0.2; above its largest value, the wind of that value.
    phi_deg, incidence_deg : [...]
        As for `cmod5n`; the three broadcast.

    Returns
    -------
    [...]; accurate to 1e-6 m/s in float64. NaN where any input is NaN.

    Raises
    ------
    QuantityError
        When nothing in ``sigma0`` is positive: linear sigma0 is needed, not dB.
    """
    target, phi, incidence = _tensors(sigma0, phi_deg, incidence_deg)
    finite = target[torch.isfinite(target)]
    if finite.numel() and bool((finite <= 0).all()):
        raise QuantityError(
            "wind inversion needs linear sigma0, and nothing here is positive",
            why=f"values from {float(finite.min()):.4g} to {float(finite.max()):.4g}",
            fix="convert decibels first: sigma0 = 10 ** (sigma0_db / 10)",
        )
    # CMOD5.N falls again at very high wind near some directions: the first crossing is looked for in a table of winds
    # spaced evenly in log, made for the geometry alone, which an image has in common along its columns.
    winds = torch.logspace(
        math.log10(MINIMUM_WIND), math.log10(MAXIMUM_WIND), _STEPS, dtype=target.dtype, device=target.device
    )
    shape = torch.broadcast_shapes(target.shape, phi.shape, incidence.shape)  # type: ignore[no-untyped-call]
    table = cmod5n(winds.view(-1, *[1] * len(shape)), phi, incidence)
    crossing = torch.zeros(shape, dtype=torch.int64, device=target.device)  # first wind of the table that reaches it
    for level in table.cummax(dim=0).values:
        crossing += level < target
    never = crossing == _STEPS
    above = crossing.clamp(1, _STEPS - 1)
    low, high = ((winds[i], table.expand(-1, *shape).gather(0, i[None])[0]) for i in (above - 1, above))
    speed = _root(target, phi, incidence, low, high)
    speed = torch.where(crossing == 0, torch.full_like(speed, MINIMUM_WIND), speed)
    speed = torch.where(never, winds[table.argmax(dim=0)], speed)
    bad = torch.isnan(target) | torch.isnan(phi) | torch.isnan(incidence)
    return torch.where(bad, torch.full_like(speed, math.nan), speed)


def _root(
    target: Tensor, phi: Tensor, incidence: Tensor, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor]
) -> Tensor:
    """The wind between two winds (given with their sigma0) at which the model crosses the target.

    Source: Chandrupatla (1997), Advances in Engineering Software 28, 145: inverse quadratic interpolation where the
    three last points allow it, bisection elsewhere; it never leaves the bracket.
    """
    (a, fa), (b, fb) = (low[0], low[1] - target), (high[0], high[1] - target)
    part = torch.full_like(a, 0.5)
    for _ in range(_ITERATIONS):
        x = a + part * (b - a)
        f = cmod5n(x, phi, incidence) - target
        same = torch.sign(f) == torch.sign(fa)
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, f
        xi, share = (a - b) / (c - b), (fa - fb) / (fc - fb)
        curved = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        good = (share**2 < xi) & ((1.0 - share) ** 2 < 1.0 - xi) & (curved > 0.0) & (curved < 1.0)
        part = torch.where(good, curved, torch.full_like(part, 0.5))
    return torch.where(fa.abs() < fb.abs(), a, b)
