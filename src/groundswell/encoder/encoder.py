"""The encoder: a backbone and its preprocessing, the thing a user loads and calls ``.encode()`` on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import progress
from groundswell.archive.reader import Archive
from groundswell.backbones import Backbone, BackboneSettings, Features, VisionTransformer, build_backbone
from groundswell.device import choose_device, float32_matmul
from groundswell.encoder.images import open_image
from groundswell.encoder.preprocessing import Preprocessing
from groundswell.errors import DataError, ModelError, QuantityError
from groundswell.files import digest
from groundswell.physics.imagette import METADATA_FIELDS, Channel, Imagette, Quantity

Source: TypeAlias = Archive | NDArray[np.float32] | str | Path | Sequence[Imagette] | Sequence[str] | Sequence[Path]
Batch: TypeAlias = tuple[NDArray[np.float32], tuple[Channel, ...], pd.DataFrame | None]


class Encoder:
    """A backbone and its preprocessing.

    Parameters
    ----------
    backbone : Backbone
        Used in evaluation mode, in float32 unless `on` says otherwise; the encoder does not copy it.
    preprocessing : Preprocessing
    name : str
        For people: the recipe or the folder it came from.
    settings : BackboneSettings
        What the backbone was built from.

    Raises
    ------
    ModelError
        When the backbone takes another number of channels than the preprocessing gives.
    """

    def __init__(self, backbone: Backbone, preprocessing: Preprocessing, name: str, settings: BackboneSettings) -> None:
        if backbone.in_channels != len(preprocessing.channels):
            raise ModelError(
                f"the backbone takes {backbone.in_channels} channels, the preprocessing gives "
                f"{len(preprocessing.channels)}",
                where=name,
                fix="build the backbone with in_channels=len(preprocessing.channels)",
            )
        self.backbone = backbone
        self.preprocessing = preprocessing
        self.name = name
        self.settings = settings
        self._precision: Literal["fp32", "bf16"] = "fp32"
        self._layout = torch.contiguous_format

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.backbone.dim

    @property
    def device(self) -> torch.device:
        """Where the backbone is, and so where it computes."""
        return next(self.backbone.parameters()).device

    @property
    def preprocessing_hash(self) -> str:
        """Hash of the preprocessing; vectors made under two hashes are not comparable."""
        return self.preprocessing.hash

    @cached_property
    def id(self) -> str:
        """The name and a digest of weights, architecture and preprocessing: equal only for equal encoders."""
        return f"{self.name}@{self.fingerprint()[:12]}"

    def fingerprint(self) -> str:
        """Hex SHA-256 of weights (name, shape, bytes), architecture and preprocessing."""
        total = hashlib.sha256(digest([self.settings.identity(), self.preprocessing.hash]).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            total.update(f"{name}{list(values.shape)}{values.dtype}".encode())
            total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())  # flat: whatever the strides
        return total.hexdigest()

    def on(
        self,
        device: str | torch.device = "auto",
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        channels_last: bool = False,
        spacing_tolerance: float | None = None,
    ) -> Encoder:
        """The same encoder, set to compute on a device (``auto``: a GPU where there is one) and in a precision.

        ``channels_last`` makes ResNets about 1.4 times faster on a CPU; it and ``bf16`` (autocast) change the last
        digits, so neither is the default. ``spacing_tolerance`` replaces the one of the preprocessing.

        Raises
        ------
        UsageError
            When there is no such device.
        """
        if spacing_tolerance is not None:
            self.preprocessing = self.preprocessing.model_copy(update={"spacing_tolerance": spacing_tolerance})
        self._precision = precision
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(device=choose_device(device), memory_format=self._layout)  # type: ignore[call-overload]
        return self

    def features(self, images: Tensor) -> Features:
        """Features of normalised images, float32 ``[N, C, h, w]``: pooled ``[N, D]``, spatial ``[N, D, h', w']``.

        In evaluation mode and without gradients; the backbone is left in the mode it was in.
        """
        with self._evaluating(images) as there:
            features: Features = self.backbone(there)
        return Features(features.pooled.float(), features.spatial.float())

    def attention(self, images: Tensor, block: int = -1) -> tuple[Features, Tensor | None]:
        """`features`, and how the class token of a block looks at the patches: ``[N, heads, h', w']``.

        The latter as `VisionTransformer.attention`; None for a ResNet, which has none.

        Raises
        ------
        ModelError
            When there is no such block, or the patches do not tile the images.
        """
        if not isinstance(self.backbone, VisionTransformer):
            return self.features(images), None
        with self._evaluating(images) as there:
            features, weights = self.backbone.attention(there, block)
        return Features(features.pooled.float(), features.spatial.float()), weights.float()

    @contextmanager
    def _evaluating(self, images: Tensor) -> Iterator[Tensor]:
        """The images where the backbone is, which in the block computes in evaluation mode and as `on` has set it.

        Without gradients; the backbone is left in the mode it was in.
        """
        training, device = self.backbone.training, self.device
        self.backbone.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"),
                _exact(device),
            ):
                yield images.to(device, memory_format=self._layout)
        finally:
            self.backbone.train(training)

    def pooled(self, images: Tensor) -> Tensor:
        """Embeddings ``[n, D]`` of normalised images ``[n, C, H, W]``: with ``mirror``, the mean over both sides."""
        pooled = self.features(images).pooled
        if self.preprocessing.mirror is None:
            return pooled
        mirrored = images.flip(2 if self.preprocessing.mirror == "azimuth" else 3)
        return (pooled + self.features(mirrored).pooled) / 2

    def embed_batch(
        self, pixels: NDArray[np.float32], channels: Sequence[Channel], rows: pd.DataFrame | None
    ) -> NDArray[np.float32]:
        """Embeddings, float32 ``[n, D]``, of physical pixels, float32 ``[n, K, H, W]``.

        Parameters
        ----------
        pixels : float32 [n, K, H, W]
            NaN where there is no valid data.
        channels : sequence of Channel, K
        rows : DataFrame, n rows, or None
            The catalogue rows, for incidence and spacing.

        Raises
        ------
        QuantityError, DataError
            When the images are not what the preprocessing declares.
        ModelError
            When an embedding is not finite.
        """
        vectors = self.pooled(self.preprocessing(pixels, channels, rows)).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"the encoder {self.name} gave embeddings that are not finite",
                why="its weights overflow or hold NaN: the training diverged",
                fix="use an earlier checkpoint",
            )
        return np.asarray(vectors, dtype=np.float32)

    def encode(
        self,
        source: Source,
        *,
        batch_size: int = 64,
        device: str | torch.device = "auto",
        quantity: Quantity | str | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of imagettes, in their order.

        Parameters
        ----------
        source : Archive, list of Imagette, image path(s), or float32 array [N, C, H, W]
            An array holds physical values of the encoder's channels, NaN where there is no valid data.
        batch_size : int
            Changes the result by no more than 1e-4.
        device : str
            ``auto``, ``cpu``, ``cuda`` ...
        quantity : Quantity, optional
            What the pixels are, where the source cannot say: arrays, and images other than Sentinel-1 quick-looks.

        Returns
        -------
        float32 [N, D]

        Raises
        ------
        QuantityError, DataError
            When the images are not what the preprocessing declares.
        """
        self.on(device, precision=self._precision, channels_last=self._layout is torch.channels_last)
        total, batches = self._batches(source, batch_size, quantity)
        vectors = np.empty((total, self.dim), dtype=np.float32)
        done = 0
        with progress.bar("encode", total=total, unit="images") as bar:
            for pixels, channels, rows in batches:
                vectors[done : done + len(pixels)] = self.embed_batch(pixels, channels, rows)
                done += len(pixels)
                bar.advance(len(pixels))
        return vectors

    def _batches(self, source: Source, batch_size: int, quantity: Quantity | str | None) -> tuple[int, Iterator[Batch]]:
        if isinstance(source, Archive):
            return len(source), _archive_batches(source, batch_size)
        if isinstance(source, np.ndarray):
            return len(source), _array_batches(source, batch_size, self._array_channels(source, quantity))
        items = [source] if isinstance(source, str | Path) else source
        imagettes = [i if isinstance(i, Imagette) else open_image(i, quantity=quantity) for i in items]
        return len(imagettes), _imagette_batches(imagettes, batch_size)

    def _array_channels(self, array: NDArray[np.float32], quantity: Quantity | str | None) -> tuple[Channel, ...]:
        wanted = self.preprocessing.channels
        if array.ndim != 4 or array.shape[1] != len(wanted):
            raise DataError(
                f"an array of images must be [N, {len(wanted)}, H, W]",
                why=f"its shape is {array.shape}, and the encoder takes {', '.join(c.name for c in wanted)}",
            )
        if quantity is None:
            names = sorted({c.quantity.value for c in wanted})
            raise QuantityError(
                "an array does not say what its pixels are",
                why=f"the encoder takes {', '.join(names)}",
                fix=f"pass quantity={names[0]!r} if that is what they are",
            )
        return tuple(Channel(c.name, Quantity(quantity)) for c in wanted)


def random_encoder(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same architecture and preprocessing with fresh weights: the control that learned nothing."""
    backbone = build_backbone(encoder.settings, len(encoder.preprocessing.channels), seed)
    return Encoder(backbone, encoder.preprocessing, f"random:{encoder.name}:{seed}", encoder.settings)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """On a GPU, float32 as it says: TF32, which training allows, would keep 11 bits and miss the promised 1e-4."""
    gpu = device.type == "cuda"
    convolutions = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with float32_matmul(device, "highest"), convolutions if gpu else nullcontext():
        yield


def metadata_frame(imagettes: Sequence[Imagette]) -> pd.DataFrame:
    """The metadata of imagettes as catalogue rows."""
    return pd.DataFrame([asdict(i.metadata) for i in imagettes], columns=list(METADATA_FIELDS))


def _archive_batches(archive: Archive, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(archive), batch_size):
        rows = np.arange(start, min(start + batch_size, len(archive)))
        yield archive.read(rows), archive.channels, archive.catalogue.iloc[rows]


def _array_batches(array: NDArray[np.float32], batch_size: int, channels: tuple[Channel, ...]) -> Iterator[Batch]:
    for start in range(0, len(array), batch_size):
        yield np.asarray(array[start : start + batch_size], dtype=np.float32), channels, None


def _imagette_batches(imagettes: Sequence[Imagette], batch_size: int) -> Iterator[Batch]:
    """Batches of neighbours that agree in shape and channels."""
    start = 0
    for stop in range(1, len(imagettes) + 1):
        first = imagettes[start]
        full = stop - start == batch_size or stop == len(imagettes)
        if full or imagettes[stop].pixels.shape != first.pixels.shape or imagettes[stop].channels != first.channels:
            some = imagettes[start:stop]
            yield np.stack([i.pixels for i in some]).astype(np.float32), first.channels, metadata_frame(some)
            start = stop
