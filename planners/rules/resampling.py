"""Why cases are resampled as they are (nnU-Net v2's orders; the numbers are plans.Resampling's defaults)."""

from __future__ import annotations

from collections.abc import Sequence

from ldseg_auto.planners.plans import Resampling


def resampling_reason(spacing: Sequence[float], chosen: Resampling) -> str:
    """Orders of interpolation, and whether the coarse axis goes by itself at the target spacing.

    Case by case, the case's own spacing decides that first (`preprocessing.resample.coarse_axis`).

    Args:
        spacing: target in mm, three numbers.
    """
    ratio, limit = max(spacing) / min(spacing), chosen.separate_axis_threshold
    alone = sum(s == max(spacing) for s in spacing) == 1
    orders = f"images by splines of order {chosen.order_image}, labels by order {chosen.order_label}, scores linear"
    if ratio <= limit:
        return f"{orders}; all axes together: coarsest spacing {ratio:.3g} times the finest, not above {limit:g}"
    coarse = "the coarse axis by itself, nearest" if alone else "all axes together, two are equally coarse"
    return f"{orders}; {coarse}: {ratio:.3g} times the finest, above {limit:g}"
