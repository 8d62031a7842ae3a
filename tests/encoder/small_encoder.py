"""A small encoder for a small archive."""

from groundswell.archive.reader import Archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.physics.imagette import Quantity


def small_encoder(archive: Archive, seed: int = 0, name: str = "small") -> Encoder:
    """A narrow ResNet-18 that takes the roughness of 24 px."""
    preprocessing = PreprocessingSettings(quantity=Quantity.ROUGHNESS_DB, size=24).resolve(
        archive.channels, archive.height, archive.width, 50.0
    )
    settings = BackboneSettings(name="resnet18", width=4, stem="small")
    return Encoder(build_backbone(settings, 1, seed), preprocessing, name, settings)
