"""Which configuration is trained unless another is named, and how its Dice loss counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

PREFERENCE = ("3d_fullres", "2d", "3d_lowres")


def default_configuration(available: Collection[str], median_shape: Sequence[float], spacing: Sequence[float]) -> tuple[str, str]:
    """3d_fullres wherever there is more than one slice, else 2d; 3d_lowres only by name, because it gives up detail.

    nnU-Net has no default. 3d_fullres is the single configuration that its authors recommend to start with.

    Args:
        available: names of the configurations that the dataset allows.
        median_shape: voxels, transposed (slices first).
        spacing: mm, transposed; of 3d_fullres where there is one.

    Returns:
        The name and its reason.
    """
    name = next(n for n in PREFERENCE if n in available)
    if name == "2d":
        return name, "2d: one slice (median), nothing to gain from a third axis"
    text = f"{name}: {median_shape[0]:g} slices of {spacing[0]:.3g} mm (median), neighbouring slices are read; finest spacing in 3D"
    if "3d_lowres" in available:
        text += "; 3d_lowres sees more of the image at once and less detail, worth a try where the place of a structure decides"
    return name, text


def batch_dice(name: str, available: Collection[str]) -> tuple[bool, str]:
    """Whether Dice is taken over the batch as one volume: for 2d, and for 3d_fullres where a 3d_lowres exists (nnU-Net v2's rule).

    Patches that see little of the image often miss a class, whose Dice alone then says nothing.

    Returns:
        The choice and its reason.
    """
    if name == "2d":
        return True, "Dice over the batch: one slice often misses a class"
    if name == "3d_fullres" and "3d_lowres" in available:
        return True, "Dice over the batch: a patch sees little of the image and often misses a class"
    return False, "Dice per sample: a patch sees a quarter of the image or more"
