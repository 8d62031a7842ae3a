"""Views: augmented crops of imagettes, made in batches on any device."""

from groundswell.views.policies import ViewPolicy, ViewSettings

__all__ = ["ViewPolicy", "ViewSettings"]
