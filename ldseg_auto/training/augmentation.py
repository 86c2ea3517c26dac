"""Augmentation by batchgenerators with nnU-Net's probabilities (nnunet.md 1.9).

batchgenerators is imported where it is used: it brings scikit-image, which a training without augmentation does not need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

ANISOTROPY = 3.0  # patches this much longer than their first axis are deformed within slices only
Transform = Callable[..., dict[str, np.ndarray]]


def in_slices(patch: Sequence[int]) -> bool:
    """Whether spatial transforms leave the first axis alone."""
    return len(patch) == 3 and max(patch) / patch[0] > ANISOTROPY


def rotation_limit(patch: Sequence[int]) -> float:
    """Largest rotation, radians: 30 degrees in 3D, 180 within slices, 15 for long 2D patches."""
    flat = patch[-2:] if in_slices(patch) else patch
    if len(flat) == 2:
        return math.radians(15 if max(flat) / min(flat) > 1.5 else 180)
    return math.radians(30)


def source_size(patch: Sequence[int]) -> tuple[int, ...]:
    """Voxels to read so that a rotated patch of `patch` voxels finds image at its corners (margin 1 / 0.85 for scaling).

    Odd where the patch is odd and even where it is even, so that both have the same centre.
    """
    flat = tuple(patch[-2:]) if in_slices(patch) else tuple(patch)
    angle = min(rotation_limit(patch), math.pi / 4)
    cos, sin = math.cos(angle), math.sin(angle)
    grown = []
    for i, p in enumerate(flat):
        other = max(flat[:i] + flat[i + 1 :])
        wanted = math.ceil(max(p, cos * p + sin * other) / 0.85)
        grown.append(wanted + (wanted - p) % 2)
    return (*patch[: len(patch) - len(flat)], *grown)


def build(patch: Sequence[int], mirror_axes: Sequence[int] | None = None) -> Transform:
    """Callable on `data` (b, c, *source) and `seg` (b, 1, *source) float32; returns both at `patch`.

    Args:
        mirror_axes: of the patch, each mirrored half of the time; None takes all.
    """
    from batchgenerators.transforms.abstract_transforms import Compose

    return Compose([*_spatial(tuple(patch)), *_intensity(), *_mirror(range(len(patch)) if mirror_axes is None else mirror_axes)])


def _spatial(patch: tuple[int, ...]) -> list[Transform]:
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    flat = in_slices(patch)
    limit = (-rotation_limit(patch), rotation_limit(patch))
    size = patch[1:] if flat else patch
    transform = SpatialTransform(
        size, patch_center_dist_from_border=None, do_elastic_deform=False, do_rotation=True,
        angle_x=limit, angle_y=limit, angle_z=limit, p_rot_per_axis=1, do_scale=True, scale=(0.7, 1.4),
        border_mode_data="constant", border_cval_data=0, order_data=1 if len(size) == 3 else 3,
        border_mode_seg="constant", border_cval_seg=0, order_seg=1, random_crop=False,
        p_el_per_sample=0, p_rot_per_sample=0.2, p_scale_per_sample=0.2, independent_scale_for_each_axis=False,
    )  # fmt: skip
    return [_within_slices(transform)] if flat else [transform]


def _within_slices(transform: Transform) -> Transform:
    """A 2D transform of all slices of a 3D batch alike: slices pass as channels, `(b, c, z, y, x)` as `(b, c z, y, x)`."""

    def apply(**batch: np.ndarray) -> dict[str, np.ndarray]:
        shapes = {key: array.shape for key, array in batch.items()}
        out = transform(**{key: array.reshape(len(array), -1, *array.shape[3:]) for key, array in batch.items()})
        return {key: array.reshape(*shapes[key][:3], *array.shape[2:]) for key, array in out.items()}

    return apply


def _intensity() -> list[Transform]:
    from batchgenerators.transforms.color_transforms import (
        BrightnessMultiplicativeTransform,
        ContrastAugmentationTransform,
        GammaTransform,
    )
    from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
    from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform

    return [
        GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_sample=0.1),
        GaussianBlurTransform((0.5, 1.0), different_sigma_per_channel=True, p_per_sample=0.2, p_per_channel=0.5),
        BrightnessMultiplicativeTransform(multiplier_range=(0.75, 1.25), p_per_sample=0.15),
        ContrastAugmentationTransform(p_per_sample=0.15),
        SimulateLowResolutionTransform(zoom_range=(0.5, 1), per_channel=True, p_per_channel=0.5, order_upsample=3, p_per_sample=0.25),
        GammaTransform(gamma_range=(0.7, 1.5), invert_image=True, per_channel=True, retain_stats=True, p_per_sample=0.1),
        GammaTransform(gamma_range=(0.7, 1.5), invert_image=False, per_channel=True, retain_stats=True, p_per_sample=0.3),
    ]


def _mirror(axes: Sequence[int]) -> list[Transform]:
    from batchgenerators.transforms.spatial_transforms import MirrorTransform

    return [MirrorTransform(axes=tuple(axes))] if axes else []


def seeded(transform: Transform, seed: int, data: np.ndarray, seg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Applies `transform` with the global generators of this process set from `seed`: the result depends on nothing else."""
    np.random.seed(seed)
    random.seed(seed)
    out = transform(data=data, seg=seg)
    return np.ascontiguousarray(out["data"], dtype=np.float32), np.ascontiguousarray(out["seg"])
