"""Views: augmented crops of imagettes, made in batches on any device, and the masks laid over them."""

from groundswell.views.crops import MultiCrop, MultiViews
from groundswell.views.masking import block_masks, random_masks
from groundswell.views.policies import ViewPolicy, ViewSettings

__all__ = ["MultiCrop", "MultiViews", "ViewPolicy", "ViewSettings", "block_masks", "random_masks"]
