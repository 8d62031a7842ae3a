"""The picture of one image: level, scale, directions, incidence, spectrum, azimuth cut-off, place.

Azimuth is up and range to the right (to the left for a left-looking radar), so that the picture is a map turned by the
heading and never a mirror image of one; the data stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from groundswell.errors import UsageError
from groundswell.files import write_with
from groundswell.physics.imagette import Metadata
from groundswell.products.land import is_land
from groundswell.report.inspector import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RINGS_M = (100.0, 150.0, 200.0, 300.0, 500.0)
_FORMATS = (".png", ".pdf", ".svg")
_ACCENT, _NORTH = "#ffa90e", "#e76300"
_EARTH_KM_A_DEGREE = 111.2


def draw(inspection: Inspection, path: str | Path) -> None:
    """Write the picture (``.png``, ``.pdf`` or ``.svg``), whole or not at all; `UsageError` for another ending."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise UsageError("inspect writes a picture", where=target, fix=f"end its name in {', '.join(_FORMATS)}")
    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.linewidth": 0.8,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(13.0, 8.4), dpi=120, layout="constrained")
        _fill(figure, inspection)
        write_with(target, lambda handle: figure.savefig(handle, format=target.suffix.lower()[1:]))


def _fill(figure: Figure, inspection: Inspection) -> None:
    view = inspection.view
    grid = figure.add_gridspec(3, 2, width_ratios=[1.75, 1.0], height_ratios=[1.9, 1.0, 1.0])
    _image(figure, figure.add_subplot(grid[:, 0]), inspection)
    _spectrum(figure, figure.add_subplot(grid[0, 1]), inspection)
    _autocorrelation(figure.add_subplot(grid[1, 1]), inspection)
    bottom = grid[2, 1].subgridspec(1, 2, width_ratios=[1.0, 1.35])
    _place(figure.add_subplot(bottom[0, 0]), figure.add_subplot(bottom[0, 1]), view.metadata, _size_km(inspection))
    figure.suptitle(f"{view.metadata.id}\n{_subtitle(inspection)}", x=0.01, ha="left", fontsize=11)
    figure.supxlabel(view.notice or "", x=0.01, ha="left", fontsize=8, color="0.4")


def _size_km(inspection: Inspection) -> tuple[float, float]:
    """(azimuth, range) extent of the image, km."""
    height, width = inspection.shown.shape
    return height * inspection.view.spacing_m[0] / 1e3, width * inspection.view.spacing_m[1] / 1e3


def _subtitle(inspection: Inspection) -> str:
    view, facts = inspection.view, inspection.facts
    m = view.metadata
    parts = [" ".join(p for p in (m.mission, m.beam, view.channel) if p)]
    if m.time is not None:
        parts.append(f"{m.time:%Y-%m-%d %H:%M:%S} UTC")
    if m.heading_deg is not None:
        parts.append(
            " ".join(p for p in (m.orbit_pass and m.orbit_pass.lower(), f"heading {m.heading_deg % 360:.1f}°") if p)
        )
    if "sigma0_db" in facts:
        parts.append(f"mean {facts['sigma0_db']:.1f} dB")
    if "nesz_db" in facts:
        parts.append(f"NESZ {facts['nesz_db']:.1f} dB")
    if "wind_at_45_deg" in facts:
        parts.append(f"CMOD5.N wind at 45°: {facts['wind_at_45_deg']:.1f} m/s")
    return "   ·   ".join(parts)


def _image(figure: Figure, axes: Axes, inspection: Inspection) -> None:
    view, shown = inspection.view, inspection.shown
    tall, wide = _size_km(inspection)
    valid = shown[np.isfinite(shown)]
    low, high = np.percentile(valid, [1.0, 99.0])
    axes.set_facecolor("#3b4252")  # no data
    picture = axes.imshow(
        shown, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, wide, 0, tall), interpolation="antialiased"
    )
    axes.set_xlabel("ground range from the near edge, km")
    axes.set_ylabel("azimuth, km (flight upwards)")
    bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.6, aspect=45, pad=0.01, extend="both")
    bar.set_label(inspection.unit)
    incidence = view.incidence_deg
    if incidence is not None and incidence[-1] > incidence[0]:
        centres = (np.arange(len(incidence)) + 0.5) * view.spacing_m[1] / 1e3
        top = axes.secondary_xaxis("top", functions=(_line(centres, incidence), _line(incidence, centres)))
        top.set_xlabel("incidence, degrees")
    if (view.metadata.look or "right").lower() == "left":
        axes.invert_xaxis()
    _scale_bar(axes, wide, tall)
    _directions(axes, view.metadata)


def _line(x: NDArray[Any], y: NDArray[Any]) -> Callable[[Any], Any]:
    """Linear interpolation that goes on straight beyond the ends, as an axis needs it."""

    def at(value: Any) -> Any:
        value = np.asarray(value, dtype=np.float64)
        slope = (y[-1] - y[0]) / (x[-1] - x[0])
        inside = np.interp(value, x, y)
        return np.where(
            value < x[0],
            y[0] + slope * (value - x[0]),
            np.where(value > x[-1], y[-1] + slope * (value - x[-1]), inside),
        )

    return at


def _scale_bar(axes: Axes, wide: float, tall: float) -> None:
    aim = wide / 4
    unit = 10.0 ** math.floor(math.log10(aim))
    length = max(step * unit for step in (1, 2, 5) if step * unit <= aim)
    x, y = 0.04 * wide, 0.04 * tall
    if axes.xaxis_inverted():
        x = wide - x - length
    style: dict[str, Any] = {"solid_capstyle": "butt"}
    axes.plot([x, x + length], [y, y], color="black", linewidth=7, **style)
    axes.plot([x, x + length], [y, y], color="white", linewidth=4, **style)
    text = f"{length:g} km" if length >= 1 else f"{length * 1e3:g} m"
    axes.text(
        x + length / 2,
        y + 0.015 * tall,
        text,
        color="white",
        ha="center",
        va="bottom",
        weight="bold",
        path_effects=_halo(),
    )


def _halo(colour: str = "black") -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground=colour)]


def _directions(axes: Axes, metadata: Metadata) -> None:
    """Range and azimuth as an angle, and north beside it where the heading is known."""
    known = metadata.heading_deg is not None
    inset = axes.inset_axes((0.74 if known else 0.86, 0.86, 0.25 if known else 0.13, 0.13))
    inset.set(
        xlim=(-1, 3) if known else (-1, 1),
        ylim=(-1.05, 1.05),
        xticks=[],
        yticks=[],
        aspect="equal",
        facecolor=(0, 0, 0, 0.55),
    )
    for spine in inset.spines.values():
        spine.set_visible(False)
    left = (metadata.look or "right").lower() == "left"
    start = (0.55, -0.55) if left else (-0.55, -0.55)
    _arrow(
        inset,
        start,
        (start[0], 0.75),
        "azimuth",
        "white",
        (start[0] + (-0.2 if left else 0.2), 0.62),
        "right" if left else "left",
    )
    _arrow(inset, start, (-0.8 if left else 0.8, start[1]), "range", "white", (0.0, -0.92), "center")
    if metadata.heading_deg is not None:
        # North, seen from a flight direction that points up; a left look mirrors the axes, not the ground.
        angle = math.radians(-metadata.heading_deg)
        dx, dy = math.sin(angle), math.cos(angle)
        centre = (2.0, 0.0)
        _arrow(
            inset,
            (centre[0] - 0.55 * dx, centre[1] - 0.55 * dy),
            (centre[0] + 0.55 * dx, centre[1] + 0.55 * dy),
            "N",
            _ACCENT,
            (centre[0] + 0.83 * dx, centre[1] + 0.83 * dy),
            "center",
        )


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    colour: str,
    at: tuple[float, float],
    align: str,
) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    )
    axes.text(*at, text, color=colour, ha=align, va="center", fontsize=8.5, weight="bold")


def _spectrum(figure: Figure, axes: Axes, inspection: Inspection) -> None:
    s, metadata = inspection.spectrum, inspection.view.metadata
    x, y = s.k_range, s.k_azimuth
    half = [0.5 * (k[1] - k[0]) for k in (x, y)]
    level = 10.0 * np.log10(np.maximum(s.density, 1e-12))
    picture = axes.imshow(
        level,
        cmap="magma",
        origin="lower",
        extent=(x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]),
        vmin=np.percentile(level, 20),
        vmax=np.percentile(level, 99.9),
        interpolation="nearest",
    )
    largest = min(-x[0], -y[0], 2 * math.pi / 90.0)
    axes.set(xlim=(-largest, largest), ylim=(-largest, largest), aspect="equal", anchor="W")
    axes.locator_params(nbins=5)
    if (metadata.look or "right").lower() == "left":
        axes.invert_xaxis()
    turn = np.linspace(0, 2 * math.pi, 181)
    for wavelength in _RINGS_M:
        k = 2 * math.pi / wavelength
        if k <= largest * 1.001:
            axes.plot(k * np.cos(turn), k * np.sin(turn), color="white", linewidth=0.6, alpha=0.55)
            axes.text(
                k * math.cos(-0.9),
                k * math.sin(-0.9),
                f"{wavelength:g} m",
                color="white",
                fontsize=7,
                ha="center",
                va="center",
                path_effects=_halo(),
            )
    cutoff = inspection.cutoff.wavelength_m
    if cutoff is not None:
        for sign in (-1, 1):
            axes.axhline(sign * 2 * math.pi / cutoff, color=_ACCENT, linestyle="--", linewidth=1.2)
        axes.text(
            -0.97 * largest,
            2 * math.pi / cutoff,
            f"azimuth cut-off {cutoff:.0f} m",
            color=_ACCENT,
            fontsize=8,
            va="bottom",
            ha="left",
            path_effects=_halo(),
        )
    if metadata.heading_deg is not None:
        angle = math.radians(-metadata.heading_deg)
        axes.text(
            0.93 * largest * math.sin(angle),
            0.93 * largest * math.cos(angle),
            "N",
            color=_ACCENT,
            ha="center",
            va="center",
            weight="bold",
            path_effects=_halo(),
        )
    axes.set_xlabel("range wavenumber, rad/m")
    axes.set_ylabel("azimuth wavenumber, rad/m")
    facts = inspection.facts
    axes.set_title(
        f"spectrum of modulation; peak {facts['peak_wavelength_m']:.0f} m, {facts['peak_angle_deg']:.0f}° from range"
    )
    figure.colorbar(picture, cax=axes.inset_axes((1.04, 0.1, 0.045, 0.8))).set_label("dB of m²/rad²")


def _autocorrelation(axes: Axes, inspection: Inspection) -> None:
    found = inspection.cutoff
    axes.axhline(0.0, color="0.8", linewidth=0.8)
    axes.plot(found.lag_m, found.autocorrelation, "o", color="#3f90da", markersize=4, label="azimuth autocorrelation")
    if found.wavelength_m is not None:
        lag = np.linspace(0.0, found.lag_m[-1], 200)
        axes.plot(lag, found.model(lag), color=_NORTH, label=f"fit: cut-off {found.wavelength_m:.0f} m")
    else:
        axes.plot([], [], " ", label="no cut-off: nothing here is correlated as waves are")
    axes.set(
        xlabel="lag in azimuth, m",
        xlim=(0, found.lag_m[-1]),
        ylim=(min(-0.1, float(found.autocorrelation.min()) - 0.02), 1.03),
    )
    axes.legend(frameon=False, loc="upper right")
    axes.set_title("lag 0 holds the speckle and is not fitted", fontsize=8.5, color="0.35")


def _place(local: Axes, world: Axes, metadata: Metadata, size_km: tuple[float, float]) -> None:
    """The footprint with the land around it, and where that is on the globe."""
    if metadata.lon is None or metadata.lat is None:
        for axes in (local, world):
            axes.set_axis_off()
        local.text(0.0, 0.5, "place not known", transform=local.transAxes, color="0.4")
        return
    lon, lat = metadata.lon, metadata.lat
    world_lon, world_lat = np.meshgrid(np.arange(-179.5, 180, 1.0), np.arange(-89.5, 90, 1.0))
    world.imshow(
        is_land(world_lon, world_lat),
        cmap="Greys",
        vmin=0,
        vmax=2.4,
        origin="lower",
        extent=(-180, 180, -90, 90),
        interpolation="nearest",
    )
    world.plot((lon + 180) % 360 - 180, lat, "o", color=_NORTH, markersize=6, markeredgecolor="white")
    world.set(xticks=[-180, -90, 0, 90, 180], yticks=[-60, 0, 60])
    world.tick_params(labelsize=7)
    stretch = 1.0 / max(math.cos(math.radians(lat)), 0.02)
    reach = 1.6 * max(size_km) / _EARTH_KM_A_DEGREE
    steps = np.linspace(-1, 1, 161) * reach
    x, y = np.meshgrid(lon + steps * stretch, np.clip(lat + steps, -90, 90))
    local.imshow(
        is_land(x, y),
        cmap="Greys",
        vmin=0,
        vmax=2.4,
        origin="lower",
        extent=(x[0, 0], x[0, -1], lat - reach, lat + reach),
        aspect=stretch,
        interpolation="nearest",
    )
    parts = [] if metadata.footprint is None else shapely.get_parts(shapely.from_wkb(metadata.footprint))
    if not len(parts):
        local.plot(lon, lat, "o", color=_NORTH)
    for part in parts:
        lons, lats = np.asarray(part.exterior.coords)[:, :2].T
        near = lons + 360.0 * np.round((lon - lons.mean()) / 360.0)  # over the date line
        local.fill(near, lats, facecolor=(*_rgb(_NORTH), 0.35), edgecolor=_NORTH, linewidth=1.2)
    local.tick_params(labelsize=7)
    local.locator_params(nbins=3)
    local.ticklabel_format(useOffset=False)
    local.set_title(f"footprint: {_degrees(lat, 'N', 'S')} {_degrees((lon + 180) % 360 - 180, 'E', 'W')}")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.2f}°{positive if value >= 0 else negative}"
