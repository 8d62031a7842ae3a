"""CMOD5.N against regression values, its published-table digits, and a real Level-2 product."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundswell.errors import QuantityError
from groundswell.physics.gmf import cmod5n, invert_cmod5n


# Values of two independent ports (xarray/NumPy ports agree bit for bit): wind, phi, incidence -> sigma0.
@pytest.mark.parametrize(
    ("wind", "phi", "incidence", "sigma0"),
    [
        (10.0, 45.0, 23.5, 0.2920489221188),
        (10.0, 45.0, 36.5, 0.0455900721064),
        (5.0, 0.0, 23.5, 0.169523896632),
        (10.0, 90.0, 36.5, 0.0244425961145),
        (20.0, 180.0, 30.0, 0.327202628874),
        (2.0, 90.0, 36.5, 0.00335590454655),
    ],
)
def test_regression_values(wind: float, phi: float, incidence: float, sigma0: float) -> None:
    # 1e-9 relative: the reference prints 12 digits and the arithmetic is float64.
    assert float(cmod5n(wind, phi, incidence)) == pytest.approx(sigma0, rel=1e-9)


TABLE = {  # dB at up / cross / down wind, for 23.5 and 36.5 degrees
    2: ((-11.8, -12.9, -11.9), (-22.4, -24.7, -22.9)),
    5: ((-7.7, -8.9, -7.6), (-16.9, -19.6, -17.5)),
    10: ((-4.4, -6.4, -4.1), (-11.6, -16.1, -12.4)),
    15: ((-2.2, -5.2, -2.0), (-8.4, -13.3, -9.3)),
    20: ((-1.0, -4.1, -0.9), (-6.7, -10.9, -7.6)),
}


def test_decibel_table_to_its_printed_digits() -> None:
    wind = torch.tensor(list(TABLE), dtype=torch.float64)[:, None, None]
    phi = torch.tensor([0.0, 90.0, 180.0], dtype=torch.float64)
    incidence = torch.tensor([23.5, 36.5], dtype=torch.float64)[:, None]
    db = 10.0 * torch.log10(cmod5n(wind, phi, incidence))
    printed = torch.tensor(list(TABLE.values()), dtype=torch.float64)
    # Half of the last printed digit, and a hair for a value that falls on the half.
    assert float((db - printed).abs().max()) <= 0.0501


def test_product_cmod_from_its_own_inputs(real_data: Path) -> None:
    """owiNrcsCmod of a real Level-2 file follows from its own wind, heading and incidence."""
    from scipy.io import netcdf_file

    (path,) = (real_data / "ocn-wv").glob("*.nc")
    with netcdf_file(path, mmap=False) as file:
        names = ("owiNrcsCmod", "owiEcmwfWindSpeed", "owiEcmwfWindDirection", "owiIncidenceAngle", "owiHeading")
        fields = {n: file.variables[n].data.astype(np.float64).squeeze() for n in (*names, "oswHeading")}
    valid = fields["owiNrcsCmod"] > 0
    assert valid.sum() > 300

    def error_db(heading: np.ndarray) -> float:
        # phi: direction the wind comes from, less the look azimuth of a right-looking antenna.
        phi = fields["owiEcmwfWindDirection"] - (heading + 90.0)
        args = (fields["owiEcmwfWindSpeed"], phi, fields["owiIncidenceAngle"])
        model = cmod5n(*(torch.as_tensor(a[valid]) for a in args)).numpy()
        return float(np.abs(10 * np.log10(model / fields["owiNrcsCmod"][valid])).max())

    # The file holds float32, whose rounding alone is 5e-7 dB; 1e-5 dB leaves room for rounded inputs.
    assert error_db(fields["owiHeading"]) < 1e-5
    # The trap of this file: with the true platform heading the product's own model value is missed by over 1 dB.
    assert error_db(np.full_like(fields["owiHeading"], fields["oswHeading"])) > 1.0


def test_dtype_and_broadcasting() -> None:
    wind = torch.linspace(1, 20, 7)
    out = cmod5n(wind[:, None], torch.tensor([0.0, 90.0]), 30.0)
    assert out.shape == (7, 2)
    assert out.dtype == torch.float32
    exact = cmod5n(wind[:, None].double(), torch.tensor([0.0, 90.0]).double(), 30.0)
    assert float((out.double() / exact - 1).abs().max()) < 2e-5  # float32 rounding through tanh, exp and a power


def test_gradients_are_finite_and_right_on_both_branches() -> None:
    wind = torch.tensor([0.0, 0.2, 1.0, 3.0, 8.0, 25.0, 50.0], dtype=torch.float64)[:, None].requires_grad_()
    incidence = torch.tensor([20.0, 30.0, 40.0, 55.0, 62.0], dtype=torch.float64).requires_grad_()
    torch.autograd.backward(cmod5n(wind, 33.0, incidence).sum())
    assert wind.grad is not None
    assert incidence.grad is not None
    assert bool(torch.isfinite(wind.grad).all())
    assert bool(torch.isfinite(incidence.grad).all())
    inner = wind.detach()[1:].requires_grad_()
    assert torch.autograd.gradcheck(lambda w: cmod5n(w, 33.0, incidence.detach()), (inner,), rtol=1e-5)


@given(
    wind=st.floats(0.5, 24.0),
    phi=st.floats(-360, 360),
    incidence=st.floats(20.0, 44.0),
)
def test_inversion_returns_the_wind(wind: float, phi: float, incidence: float) -> None:
    sigma0 = cmod5n(wind, phi, incidence)
    found = invert_cmod5n(sigma0, phi, incidence)
    # The lowest wind with this sigma0: never above the one put in, and it gives the same sigma0.
    assert float(found) <= wind + 1e-5
    assert float(cmod5n(found, phi, incidence)) == pytest.approx(float(sigma0), rel=1e-5)


def test_inversion_at_forty_five_degrees_is_unique_and_clamps() -> None:
    wind = torch.linspace(0.3, 35.0, 50, dtype=torch.float64)
    for incidence in (23.5, 36.5):
        found = invert_cmod5n(cmod5n(wind, 45.0, incidence), 45.0, incidence)
        assert float((found - wind).abs().max()) < 1e-5
    ends = invert_cmod5n(torch.tensor([-1e-3, 1e-9, 1e3], dtype=torch.float64), 45.0, 36.5)
    assert ends[0] == pytest.approx(0.2)
    assert ends[1] == pytest.approx(0.2)
    assert float(ends[2]) > 35.0
    assert bool(torch.isnan(invert_cmod5n(torch.tensor([float("nan"), 0.1]), 45.0, 36.5))[0])


def test_inversion_is_exact_even_where_the_model_is_flat_or_falls() -> None:
    """Against the first crossing on a dense grid, refined by bisection: every direction, up to hurricane winds."""
    generator = torch.Generator().manual_seed(5)
    speed, phi, incidence = torch.rand(3, 400, generator=generator, dtype=torch.float64)
    speed, phi, incidence = 0.3 + 49.0 * speed, 360.0 * phi, 17.0 + 48.0 * incidence
    sigma0 = cmod5n(speed, phi, incidence)
    dense = torch.linspace(0.2, 50.0, 8000, dtype=torch.float64)[:, None]
    levels = cmod5n(dense, phi, incidence)
    first = (levels >= sigma0).double().argmax(dim=0)  # there is one: the wind put in is under 50 m/s
    low, high = dense[(first - 1).clamp(0), 0], dense[first, 0]
    for _ in range(40):
        middle = 0.5 * (low + high)
        below = cmod5n(middle, phi, incidence) < sigma0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    found = invert_cmod5n(sigma0, phi, incidence)
    # Where the model peaks between two winds of its table, its answer is the wind of the table's largest value.
    reached = cmod5n(found, phi, incidence) >= sigma0 * (1 - 1e-7)
    assert float(reached.double().mean()) > 0.95
    assert float((found - high)[reached].abs().max()) < 1e-5
    assert float((cmod5n(found, phi, incidence) / sigma0 - 1).abs().max()) < 2e-3


def test_inversion_of_an_image_with_the_incidence_of_its_columns() -> None:
    wind = 3.0 + 20.0 * torch.rand(30, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    incidence = torch.linspace(35.4, 36.7, 40, dtype=torch.float64)
    phi = torch.tensor([[200.0]], dtype=torch.float64)
    image = invert_cmod5n(cmod5n(wind, phi, incidence), phi, incidence)
    assert image.shape == (30, 40)
    assert float((image - wind).abs().max()) < 1e-6
    rows = torch.stack([invert_cmod5n(cmod5n(w, phi[0], incidence), phi[0], incidence) for w in wind])
    assert float((image - rows).abs().max()) < 1e-9


def test_wind_of_the_real_product_and_what_the_right_heading_makes_of_it(real_data: Path) -> None:
    from scipy.io import netcdf_file

    (path,) = (real_data / "ocn-wv").glob("*.nc")
    with netcdf_file(path, mmap=False) as file:
        names = ("owiNrcsNeszCorr", "owiWindSpeed", "owiWindDirection", "owiIncidenceAngle", "owiHeading")
        names += ("oswHeading", "owiEcmwfWindSpeed", "owiEcmwfWindDirection")
        fields = {n: file.variables[n].data.astype(np.float64).squeeze() for n in names}
    sigma0, incidence = (torch.from_numpy(fields[n]) for n in ("owiNrcsNeszCorr", "owiIncidenceAngle"))
    own = torch.from_numpy(fields["owiWindDirection"] - fields["owiHeading"] - 90.0)
    found = invert_cmod5n(sigma0, own, incidence).numpy()
    # The product searches in steps of 0.1 m/s, and its sigma0 has been rounded to float32.
    assert np.abs(found - fields["owiWindSpeed"]).max() < 0.1
    # With the true heading and the wind direction of the weather model the wind comes to within 1.5 m/s of that
    # model's, where the product's own was 3 m/s off.
    right = torch.from_numpy(fields["owiEcmwfWindDirection"] - fields["oswHeading"] - 90.0)
    found = invert_cmod5n(sigma0, right, incidence).numpy()
    model = fields["owiEcmwfWindSpeed"].mean()
    assert abs(found.mean() - model) < 1.5
    assert abs(fields["owiWindSpeed"].mean() - model) > 2.5


def test_decibels_are_refused() -> None:
    with pytest.raises(QuantityError, match="linear sigma0"):
        invert_cmod5n(torch.tensor([-12.0, -14.0]), 45.0, 30.0)
