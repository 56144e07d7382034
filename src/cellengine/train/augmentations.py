"""The sets of augmentations that have a name, as `augment.set` gives them; settings beside it are on top."""

from __future__ import annotations

from cellengine.train.settings import AugmentConfig

NONE = AugmentConfig(
    flips=False,
    rotate_deg=0.0,
    zoom=(1.0, 1.0),
    affine_probability=0.0,
    blur_probability=0.0,
    noise_probability=0.0,
    gamma_probability=0.0,
    intensity_probability=0.0,
    grey_probability=0.0,
    elastic_probability=0.0,
)

AUGMENTATIONS: dict[str, AugmentConfig] = {
    # nothing: pictures as they are
    "none": NONE,
    # cellengine's own, for nuclei in 2D
    "nuclei": AugmentConfig(),
    # report A: zero to two of mirroring, quarter turns, multiplication and blur (Mask R-CNN for nuclei)
    "maskrcnn": AugmentConfig(
        flips=True,
        quarter_turns=1.0,
        rotate_deg=0.0,
        zoom=(1.0, 1.0),
        affine_probability=0.0,
        elastic_probability=0.0,
        multiply=(0.8, 1.5),
        multiply_probability=1.0,
        blur_sigma_px=(0.0, 5.0),
        blur_probability=1.0,
        noise_probability=0.0,
        gamma_probability=0.0,
        intensity_probability=0.0,
        grey_probability=0.0,
        at_most=2,
    ),
    # report B: mirrored volumes (salivary glands)
    "flips": AugmentConfig(
        flips=True,
        quarter_turns=0.0,
        rotate_deg=0.0,
        zoom=(1.0, 1.0),
        affine_probability=0.0,
        elastic_probability=0.0,
        blur_probability=0.0,
        noise_probability=0.0,
        gamma_probability=0.0,
        intensity_probability=0.0,
        grey_probability=0.0,
    ),
    # Wolny et al. 2020 (PlantSeg): mirroring, rotation in the plane, elastic deformation, noise
    "tissue": AugmentConfig(
        flips=True,
        rotate_deg=45.0,
        zoom=(1.0, 1.0),
        affine_probability=0.5,
        elastic_px=2.0,
        elastic_grain_px=10.0,
        elastic_probability=0.3,
        blur_probability=0.0,
        noise_std=0.1,
        noise_probability=0.3,
        gamma_probability=0.0,
        intensity_probability=0.0,
        grey_probability=0.0,
    ),
    # Falk et al. 2019: rotation, smooth deformation, intensity
    "falk": AugmentConfig(
        flips=False,
        rotate_deg=180.0,
        zoom=(1.0, 1.0),
        affine_probability=1.0,
        elastic_px=4.0,
        elastic_grain_px=24.0,
        elastic_probability=1.0,
        blur_probability=0.0,
        noise_probability=0.0,
        gamma=(0.7, 1.4),
        gamma_probability=1.0,
        intensity_probability=0.5,
        grey_probability=0.0,
    ),
    # report C: live and dead cells
    "livedead": AugmentConfig(
        flips=False,
        flip_last=True,
        rotate_deg=15.0,
        shear=0.1,
        zoom=(0.8, 1.2),
        shift=0.1,
        affine_probability=1.0,
        elastic_probability=0.0,
        blur_probability=0.0,
        noise_probability=0.0,
        gamma_probability=0.0,
        intensity_probability=0.0,
        grey_probability=0.0,
    ),
    # cellengine's own for crops of cells: any turn, and some change of light
    "crops": AugmentConfig(
        flips=True,
        rotate_deg=180.0,
        zoom=(0.8, 1.25),
        shift=0.05,
        affine_probability=0.9,
        blur_probability=0.1,
        noise_std=0.05,
        noise_probability=0.2,
        gamma_probability=0.2,
        brightness=0.1,
        contrast=0.15,
        grey_probability=0.0,
    ),
    # cellengine's own for volumes: anisotropic voxels, so turns in the plane only
    "volumes": AugmentConfig(
        flips=True,
        rotate_deg=180.0,
        zoom=(0.8, 1.25),
        affine_probability=0.6,
        blur_sigma_px=(0.3, 1.0),
        blur_probability=0.15,
        noise_std=0.08,
        noise_probability=0.3,
        gamma=(0.6, 1.6),
        gamma_probability=0.4,
        brightness=0.1,
        contrast=0.3,
        intensity_probability=0.5,
        grey_probability=0.0,
    ),
}
