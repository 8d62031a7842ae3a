"""What every method is to the training loop, which drives it without knowing which it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from groundswell.backbones import Backbone


@dataclass(frozen=True)
class Observed:
    """What a step shows of itself, detached: for the log and for the health of the run.

    Attributes
    ----------
    scalars : dict of str to float32 []
        Named figures of the batch.
    features : float32 [N, D]
        The embeddings of the views, as the backbone gives them.
    """

    scalars: dict[str, Tensor]
    features: Tensor


class Method(nn.Module):
    """A self-supervised method. What is trained are its parameters that require a gradient.

    A step of the loop is: set `progress`; `loss` and its gradient, for each batch; clip; `before_update`; the
    optimiser; `after_update`. A step that is not taken (its loss had exploded, or a number was not finite) ends after
    the gradient, and the loop puts all buffers back. A checkpoint holds ``state_dict()``: whatever a method must
    remember is a parameter or a buffer; schedules are functions of `progress`, and random numbers of the keys.

    Attributes
    ----------
    backbone : Backbone
        The network that the optimiser trains.
    progress : float
        Of the run, from 0 to 1, at the step in hand.
    watched : frozenset of str
        The figures by which the health of a run is judged (`groundswell.training.health`); others are shown alone.
    """

    watched: ClassVar[frozenset[str]] = frozenset({"feature_spread", "effective_rank"})
    backbone: Backbone

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.progress = 0.0

    def loss(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """The loss of a batch.

        Parameters
        ----------
        images : float32 [B, C, H, W]
            Normalised.
        keys : int64 [B]
            One key an image. Views, masks and dropped branches are pure functions of it, some (the partners of mixup,
            which views DINOv2 masks, drop path above 0.1) also of the keys beside it.

        Returns
        -------
        loss : float32 []
        observed : Observed
        """
        raise NotImplementedError

    def before_update(self) -> None:
        """Called between the gradient, which is complete and clipped, and the step of the optimiser."""

    def after_update(self) -> None:
        """Called after the optimiser has taken a step."""

    def encoder_backbone(self) -> Backbone:
        """A copy of the network that becomes the encoder, in evaluation mode."""
        return self.backbone.plain().eval()

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start from the weights of an encoder's backbone."""
        self.backbone.load_state_dict(dict(weights))
