"""``groundswell inspect``: one image with its scale, directions, spectrum, azimuth cut-off and place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb


@verb
def inspect(
    scene: Annotated[Path, typer.Argument(metavar="SCENE", help="A SAFE folder, zip or tar, or an archive.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write (.png, .pdf or .svg).")],
    item: Annotated[
        str | None,
        typer.Argument(
            metavar="[ITEM]", help="Image number or swath of a product, id of an archive; if not the only one."
        ),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Polarisation or channel; the first if not given.")] = None,
    spacing: Annotated[
        float | None, typer.Option(min=1.0, help="Ground cells of a product in metres, 50 if not given.")
    ] = None,
) -> Outcome:
    """Draw one image as an ocean scientist looks at it.

    Sigma0 in decibels with scale bar, north, range and azimuth arrows and incidence; the wavenumber spectrum of its
    modulation with rings of wavelength; the azimuth autocorrelation with the fitted azimuth cut-off; the footprint on
    the map. Azimuth is up and range to the right, never mirrored. `--json` prints the numbers.

    Example: `groundswell inspect S1B_WV_SLC__1SSV_20210403T083025_....SAFE 3 -o imagette.png`
    """
    from rich.markup import escape

    from groundswell.report.inspector import inspect as measure
    from groundswell.report.inspector import view_of
    from groundswell.report.inspector_figure import draw

    inspection = measure(view_of(scene, item, channel, spacing))
    draw(inspection, output)
    view, facts = inspection.view, inspection.facts
    data = {"picture": str(output), "id": view.metadata.id, "channel": view.channel, "quantity": view.quantity, **facts}
    cutoff = (
        f"{facts['azimuth_cutoff_m']:.0f} m"
        if "azimuth_cutoff_m" in facts
        else "none: nothing is correlated as waves are"
    )
    level = f"mean {facts['sigma0_db']:.1f} dB, " if "sigma0_db" in facts else ""
    text = (
        f"{output}: {view.metadata.id}, {view.channel}\n{level}spectral peak at {facts['peak_wavelength_m']:.0f} m, "
        f"{facts['peak_angle_deg']:.0f} degrees from range; azimuth cut-off {cutoff}"
    )
    return Outcome(data, escape(text))
