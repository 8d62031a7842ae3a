"""The named policies, as plain settings: what a recipe writes beside ``policy`` wins over them.

Where a comment names a paper or its code, the value is from there; ``ours`` marks what we chose, and what a paper
leaves open. None says what the pixels are proportional to (`ViewSettings.pixels`): that is the recipe's to know.
A ``-local`` policy is for the small views of multi-crop.
"""

from __future__ import annotations

from typing import Any, Literal

Name = Literal[
    "plain",
    "ocean",
    "chip",
    "wvnet",
    "oceansar1",
    "oceansar1-local",
    "oceansar2",
    "oceansar2-local",
    "sar-mae",
    "sar-dino",
    "sar-dino-local",
]

_BOTH_FLIPS = {"flip_azimuth": 0.5, "flip_range": 0.5}

# OceanSAR-1 (arXiv 2504.06962) names DINO and none of its augmentations. From DINO (facebookresearch/dino@7c446df):
# crops, probabilities of jitter and blur, strength of brightness and contrast 0.4 (a brightness of 1 +- 0.4 is
# -2.2 to +1.5 dB of power, and -4.4 to +2.9 on pixels that are amplitudes, as the recipe oceansar1 has them).
# Ours: flips along both axes (DINO: columns only), one blur for both global views (DINO: p 1.0 and
# 0.1, sigma 0.1 to 2 px), no grey-scale, hue or solarise, which mean nothing for radar, speckle in their place.
_OCEANSAR1: dict[str, Any] = {
    "geometry": {"scale": (0.4, 1.0), **_BOTH_FLIPS},  # DINO, ViT; its ResNet-50: (0.14, 1.0)
    "gain": {"p": 0.8, "db": (-2.2, 1.5)},  # DINO
    "contrast": {"p": 0.8, "factor": (0.6, 1.4)},  # DINO
    "blur": {"p": 0.5, "sigma": (0.1, 1.0)},  # ours
    "speckle": {"p": 0.5, "looks": (20.0, 200.0)},  # ours
}

# OceanSAR-2 (arXiv 2601.07392) names DINOv2 and calibrated sigma0, none of its augmentations. Crops from DINOv2
# (facebookresearch/dinov2@b8931f7). Ours: a gain no larger than the radiometric accuracy of wave mode (1 dB, 3 sigma,
# ESA), or the wind that calibration brought in would be taught away; the rest as above.
_OCEANSAR2: dict[str, Any] = {
    **_OCEANSAR1,
    "geometry": {"scale": (0.32, 1.0), **_BOTH_FLIPS},  # DINOv2
    "gain": {"p": 0.8, "db": (-0.5, 0.5)},  # ours
    "contrast": {"p": 0.5, "factor": (0.8, 1.25)},  # ours
}

# DINO on 12-channel Sentinel-1 amplitude over land (Jungbluth et al., arXiv 2310.03513): nothing of it is published
# but the method. Values of DINO as above; ours: no speckle, which the ratio channels do not allow.
_SAR_DINO: dict[str, Any] = {
    "geometry": {"scale": (0.4, 1.0), **_BOTH_FLIPS},  # DINO; flips along azimuth ours
    "gain": {"p": 0.8, "db": (-2.2, 1.5)},  # DINO
    "contrast": {"p": 0.8, "factor": (0.6, 1.4)},  # DINO
    "blur": {"p": 0.5, "sigma": (0.1, 1.0)},  # ours
}

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Ours. Waves and wind keep their axes: no rotation. Flips keep azimuth and range apart; crops keep swell in view.
    "ocean": {
        "geometry": {"scale": (0.4, 1.0), "flip_azimuth": 0.5, "flip_range": 0.5},
        "gain": {"p": 0.8, "db": (-1.0, 1.0)},
        "contrast": {"p": 0.5, "factor": (0.8, 1.25)},
        "blur": {"p": 0.3, "sigma": (0.3, 1.0)},
        "speckle": {"p": 0.5, "looks": (20.0, 200.0)},
    },
    # Ours. Targets seen from any side: the class survives every rotation, the absolute level means little.
    "chip": {
        "geometry": {"scale": (0.3, 1.0), "flip_azimuth": 0.5, "flip_range": 0.5, "rotation": 1.0},
        "gain": {"p": 0.8, "db": (-3.0, 3.0)},
        "contrast": {"p": 0.5, "factor": (0.7, 1.4)},
        "blur": {"p": 0.3, "sigma": (0.3, 1.2)},
        "noise": {"p": 0.5, "std": (0.0, 0.2)},
    },
    # WV-Net (arXiv 2406.18765): mixup, rotation, inversion and sharpness on top of SimCLR's crops, on 8-bit
    # quick-looks. Every probability and magnitude is unknown, and so ours; the notch filter did not help there.
    "wvnet": {
        "geometry": {
            "scale": (0.08, 1.0),  # SimCLR (arXiv 2002.05709, appendix A), also its ratio of 3/4 to 4/3
            "flip_range": 0.5,  # SimCLR
            "rotation": 0.5,  # ours
            "rotation_deg": 180.0,  # ours
        },
        "mixup": {"p": 0.5, "weight": (0.0, 0.3)},  # ours
        "inversion": {"p": 0.5},  # ours
        "sharpness": {"p": 0.5, "factor": (0.5, 2.0)},  # ours
    },
    "oceansar1": _OCEANSAR1,
    "oceansar1-local": {**_OCEANSAR1, "geometry": {"scale": (0.05, 0.4), **_BOTH_FLIPS}},  # DINO; ResNet-50: 0.14
    "oceansar2": _OCEANSAR2,
    "oceansar2-local": {**_OCEANSAR2, "geometry": {"scale": (0.05, 0.32), **_BOTH_FLIPS}},  # DINOv2
    # MAE on the same land data (spaceml-org/M3LEO, configs/mae-pretraining/s1grd): a random resized crop and nothing
    # else; its area is the default of torchvision's RandomResizedCrop. (MAE itself, arXiv 2111.06377: 0.2 to 1, flips.)
    "sar-mae": {"geometry": {"scale": (0.08, 1.0)}},
    "sar-dino": _SAR_DINO,
    "sar-dino-local": {**_SAR_DINO, "geometry": {"scale": (0.05, 0.4), **_BOTH_FLIPS}},  # DINO
}
