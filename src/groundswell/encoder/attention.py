"""What an encoder looks at: attention of the class token, and the vectors of the patches, on the grid of the patches.

Of a ResNet, which has no attention, the grid is that of its last stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.archive.reader import Archive
from groundswell.encoder.encoder import Encoder
from groundswell.errors import ModelError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Looked:
    """Some images as a network saw them, and what it made of their parts.

    Attributes
    ----------
    images : float32 [N, C, S, S]
        Normalised pixels.
    known : bool [N, S, S]
        Where there was a valid pixel in every channel.
    tokens : float32 [N, D, h, w]
        One vector a patch, after the last layer.
    weights : float32 [N, heads, h, w] or None
        The part of each patch in what the class token takes; None for a ResNet.
    """

    images: Floats
    known: NDArray[np.bool_]
    tokens: Floats
    weights: Floats | None


def look(
    encoder: Encoder, archive: Archive, rows: ArrayLike, block: int = -1, batch_size: int = 16
) -> Iterator[Looked]:
    """Look at imagettes, a batch at a time.

    Parameters
    ----------
    encoder : Encoder
    archive : Archive
    rows : int [n]
        Positions in the catalogue.
    block : int
        Of a vision transformer, whose attention is read: from 0, or from the end.

    Raises
    ------
    ModelError
        When there is no such block, or the patches do not tile the images.
    QuantityError, DataError
        When the images are not what the preprocessing declares.
    """
    positions = np.atleast_1d(np.asarray(rows, dtype=np.int64))
    for start in range(0, len(positions), batch_size):
        some = positions[start : start + batch_size]
        pixels = archive.read(some)
        images = encoder.preprocessing(pixels, archive.channels, archive.catalogue.iloc[some])
        features, attended = encoder.attention(images, block)
        weights = None if attended is None else attended.cpu().numpy()
        tokens = features.spatial.cpu().numpy()
        if not np.isfinite(tokens).all():
            raise ModelError(
                f"the encoder {encoder.name} gave vectors that are not finite",
                why="its weights overflow or hold NaN: the training diverged",
                fix="use an earlier checkpoint",
            )
        valid = np.asarray(np.isfinite(pixels).all(axis=1), dtype=np.uint8)
        known = fitted(valid, encoder.preprocessing.size, fill=0).astype(bool)
        yield Looked(images.numpy(), known, tokens, weights)


def fitted(masks: NDArray[np.uint8], size: int, fill: int) -> NDArray[np.uint8]:
    """Masks uint8 ``[N, H, W]`` cut and padded as `Preprocessing.fit` does it to images: ``[N, size, size]``.

    What lies outside of the image is ``fill``.
    """
    height, width = masks.shape[1:]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    inner = masks[:, top : top + size, left : left + size]
    above, before = (size - inner.shape[1]) // 2, (size - inner.shape[2]) // 2
    out = np.full((len(masks), size, size), fill, dtype=np.uint8)
    out[:, above : above + inner.shape[1], before : before + inner.shape[2]] = inner
    return out


def patch_colours(tokens: Floats) -> tuple[Floats, list[float]]:
    """Patch vectors as colours: the first three principal components of all of them together.

    Each component is stretched between its 1st and 99th percentile over all images, so that equal colours are alike
    vectors in any of them (as in the figures of DINOv2, arXiv 2304.07193).

    Parameters
    ----------
    tokens : float32 [N, D, h, w]

    Returns
    -------
    colours : float32 [N, h, w, 3] in [0, 1]
    explained : list of float
        The part of the variance in each component.
    """
    from sklearn.decomposition import PCA

    count, dim, height, width = tokens.shape
    flat = tokens.transpose(0, 2, 3, 1).reshape(-1, dim).astype(np.float64)
    components = min(3, *flat.shape)
    pca = PCA(components, svd_solver="full")
    scores = np.zeros((len(flat), 3))
    with np.errstate(invalid="ignore"):  # vectors that are all alike have no variance to explain
        scores[:, :components] = pca.fit_transform(flat)
    low, high = np.percentile(scores, [1, 99], axis=0)
    stretched = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    explained = np.nan_to_num(pca.explained_variance_ratio_)
    return stretched.reshape(count, height, width, 3).astype(np.float32), [float(part) for part in explained]
