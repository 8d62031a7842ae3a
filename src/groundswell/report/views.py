"""What a recipe does to real images: each original, and beside it the views that training would see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import rng
from groundswell.archive.reader import Archive
from groundswell.errors import UsageError
from groundswell.report.sheets import contact_sheet
from groundswell.training.recipe import Recipe
from groundswell.views import MultiCrop, ViewPolicy
from groundswell.views.tasks import broken_labels


@dataclass(frozen=True)
class Panel:
    """One column of the sheet: a view of every image.

    Attributes
    ----------
    title : str
    images : float32 [B, C, h, w]
        Normalised; NaN where the method hides pixels.
    """

    title: str
    images: Tensor


@dataclass(frozen=True)
class Shown:
    """A sheet that was written.

    Attributes
    ----------
    ids : list of str
        Of the originals.
    panels : list of str
        Titles of the columns beside them.
    unphysical : dict
        Of each part of the policy, the labels that it breaks.
    broken : dict
        Of each label column of the archive that is broken, the parts of the policy that do so.
    """

    ids: list[str]
    panels: list[str]
    unphysical: dict[str, tuple[str, ...]]
    broken: dict[str, tuple[str, ...]]


def show_views(
    archive: Archive, recipe: Recipe, path: str | Path, *, count: int = 8, channel: str | None = None
) -> Shown:
    """Write a contact sheet of the views of ``count`` imagettes, evenly spaced in the archive.

    The views are those of the first epoch of a run with this recipe on these rows. All tiles of a row share the
    stretch of their original, so that a change of level shows.

    Raises
    ------
    UsageError
        When the archive is empty, has no such channel, or its quantity does not allow the views.
    """
    if not len(archive):
        raise UsageError("there is no imagette to show", where=archive.path)
    preprocessing = recipe.preprocessing.resolve(
        archive.channels, archive.height, archive.width, archive.schema.spacing_m
    )
    names = [c.name for c in preprocessing.channels]
    if channel is not None and channel not in names:
        raise UsageError(f"there is no channel {channel!r}", where=archive.path, fix=f"choose from {', '.join(names)}")
    shown = 0 if channel is None else names.index(channel)
    rows = np.unique(np.linspace(0, len(archive) - 1, min(count, len(archive))).round().astype(np.int64))
    catalogue = archive.catalogue.iloc[rows]
    images = preprocessing.normalise(archive.read(rows), archive.channels, catalogue)
    keys = rng.keys(recipe.seed, torch.from_numpy(rows), "views", 0)
    policy = ViewPolicy(recipe.views, recipe.view_size, [c.quantity for c in preprocessing.channels])
    panels = two_views(policy, images, keys)

    ids = [str(name) for name in catalogue["id"]]
    tiles: list[NDArray[np.float32]] = []
    limits: list[tuple[float, float]] = []
    titles: list[str] = []
    for i, name in enumerate(ids):
        original = images[i, shown].numpy()
        low, high = np.percentile(original, [1, 99])
        tiles += [original, *(panel.images[i, shown].numpy() for panel in panels)]
        limits += [(float(low), float(high))] * (1 + len(panels))
        titles += [f"original\n{name}", *(f"{panel.title}\n{panel.images.shape[-1]} px" for panel in panels)]
    heading = f"{recipe.name}: {recipe.method.name}, policy {recipe.views.policy}, {names[shown]}"
    contact_sheet(tiles, titles, path, columns=1 + len(panels), heading=heading, limits=limits)
    notes = policy.unphysical_for()
    columns = [str(c) for c in archive.catalogue.columns]
    return Shown(ids, [panel.title for panel in panels], notes, broken_labels(notes, columns))


def two_views(policy: ViewPolicy, images: Tensor, keys: Tensor) -> list[Panel]:
    """The two views of each image that `methods.simclr.SimCLR.loss` compares."""
    return [Panel(name, policy(images, rng.keys(0, keys, name))) for name in ("first view", "second view")]


def crops(maker: MultiCrop, images: Tensor, keys: Tensor) -> list[Panel]:
    """The global and the local views of each image, as multi-crop gives them to a method."""
    made = maker(images, keys)
    whole = [Panel(f"global view {i + 1}", part) for i, part in enumerate(made.globals.chunk(maker.n_global))]
    small = made.locals.chunk(maker.n_local) if maker.n_local else ()
    return whole + [Panel(f"local view {i + 1}", part) for i, part in enumerate(small)]


def masked(panel: Panel, masks: Tensor) -> Panel:
    """A panel without the patches that a method hides: masks bool ``[B, patches]`` of a square grid, True hidden."""
    side = math.isqrt(masks.shape[1])
    hidden = masks.view(-1, 1, side, side).to(panel.images.device)
    patch = panel.images.shape[-1] // side
    hidden = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return Panel(f"{panel.title}, masked", panel.images.masked_fill(hidden, torch.nan))
