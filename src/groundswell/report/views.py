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
from groundswell.methods.dinov2 import DINOv2Settings
from groundswell.methods.distillation import per_view
from groundswell.methods.mae import MAESettings
from groundswell.report.sheets import contact_sheet
from groundswell.training.building import build_views, preprocessing_of
from groundswell.training.recipe import Recipe
from groundswell.views import MultiCrop, ViewPolicy, block_masks, random_masks
from groundswell.views.tasks import broken_labels

_MASKED = "(masked)"


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

    def title_of(self, i: int) -> str:
        """The title above one image: of masked views only a part is masked."""
        if not self.title.endswith(_MASKED) or bool(self.images[i].isnan().any()):
            return self.title
        return self.title.replace(_MASKED, "(not masked)")


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

    The views are those of the first epoch of a run with this recipe on these rows, mixup and block masks as in a batch
    of the images shown. All tiles of a row share the stretch of their original, so that a change of level shows.

    Raises
    ------
    UsageError
        When the archive is empty, has no such channel, or its quantity does not allow the views.
    """
    if not len(archive):
        raise UsageError("there is no imagette to show", where=archive.path)
    preprocessing = preprocessing_of(recipe, archive)
    names = [c.name for c in preprocessing.channels]
    if channel is not None and channel not in names:
        raise UsageError(f"there is no channel {channel!r}", where=archive.path, fix=f"choose from {', '.join(names)}")
    shown = 0 if channel is None else names.index(channel)
    rows = np.unique(np.linspace(0, len(archive) - 1, min(count, len(archive))).round().astype(np.int64))
    catalogue = archive.catalogue.iloc[rows]
    images = preprocessing.normalise(archive.read(rows), archive.channels, catalogue)
    keys = rng.keys(recipe.seed, torch.from_numpy(rows), "views", 0)
    maker = build_views(recipe, preprocessing.channels)
    panels = panels_of(recipe, maker, images, keys)

    ids = [str(name) for name in catalogue["id"]]
    tiles: list[NDArray[np.float32]] = []
    limits: list[tuple[float, float]] = []
    titles: list[str] = []
    for i, name in enumerate(ids):
        original = images[i, shown].numpy()
        low, high = np.percentile(original, [1, 99])
        tiles += [original, *(panel.images[i, shown].numpy() for panel in panels)]
        limits += [(float(low), float(high))] * (1 + len(panels))
        titles += [f"original\n{name}", *(f"{panel.title_of(i)}\n{panel.images.shape[-1]} px" for panel in panels)]
    heading = f"{recipe.name}: {recipe.method.name}, policy {recipe.views.policy}, {names[shown]}"
    contact_sheet(tiles, titles, path, columns=1 + len(panels), heading=heading, limits=limits)
    policies = [maker] if isinstance(maker, ViewPolicy) else [*maker.globals_, *filter(None, [maker.locals_])]
    notes = {name: labels for policy in policies for name, labels in policy.unphysical_for().items()}
    columns = [str(c) for c in archive.catalogue.columns]
    return Shown(ids, [panel.title for panel in panels], notes, broken_labels(notes, columns))


def panels_of(recipe: Recipe, maker: ViewPolicy | MultiCrop, images: Tensor, keys: Tensor) -> list[Panel]:
    """What the loss of the recipe's method takes from each image, hidden patches left out as it leaves them out."""
    method = recipe.method
    if isinstance(maker, ViewPolicy):
        if isinstance(method, MAESettings):
            view = Panel("view", maker(images, rng.keys(0, keys, "view")))
            tokens = (recipe.view_size // recipe.backbone.patch) ** 2
            return [view, masked(view, random_masks(rng.keys(0, keys, "mask"), tokens, method.mask_ratio)[1])]
        return [Panel(name, maker(images, rng.keys(0, keys, name))) for name in ("first view", "second view")]
    made, count = maker(images, keys), maker.n_global
    whole = [Panel(f"global view {i + 1}", part) for i, part in enumerate(made.globals.chunk(count))]
    if isinstance(method, DINOv2Settings):  # the student sees the masked ones, the teacher the whole ones
        side = recipe.view_size // recipe.backbone.patch
        masks = block_masks(per_view(keys, "mask", count), (side, side), method.mask_ratio, method.mask_probability)
        whole += [masked(panel, mask) for panel, mask in zip(whole, masks.chunk(count), strict=True)]
    small = made.locals.chunk(maker.n_local) if maker.n_local else ()
    return whole + [Panel(f"local view {i + 1}", part) for i, part in enumerate(small)]


def masked(panel: Panel, masks: Tensor) -> Panel:
    """A panel without the patches that a method hides: masks bool ``[B, patches]`` of a square grid, True hidden."""
    side = math.isqrt(masks.shape[1])
    hidden = masks.view(-1, 1, side, side).to(panel.images.device)
    patch = panel.images.shape[-1] // side
    hidden = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return Panel(f"{panel.title} {_MASKED}", panel.images.masked_fill(hidden, torch.nan))
