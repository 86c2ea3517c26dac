"""What training aims at: the best mask, or the raters' distribution."""

from __future__ import annotations


def aim(raters: int) -> dict[str, float | bool]:
    """The parts of the method that depend on the number of raters.

    With several raters one image has several truths: the energy score draws from their distribution, and recycling, which teaches the
    denoiser to distrust what it is given, is left out, as are the gate that hides the noise from the first step and the averaging of a
    sample's steps. With one rater these would trade accuracy for spread. Twice as many labels are reconstructed as with one rater, which is
    as it was measured; whether half of them would do here, too, is not.
    """
    if raters == 1:
        return {}
    return {
        "diversity": 1.0,
        "signal_gate": False,
        "recycling": 0.0,
        "pure_noise": 0.5,
        "later_steps": 0.0,
        "reconstruction_share": 0.125,
        "average_steps": False,
        "mirror_samples": False,
    }


def why(raters: int) -> str:
    """The reason, for the plans."""
    if raters > 1:
        return f"{raters} raters: samples follow their distribution (energy score, no recycling)"
    return "one rater: the best mask (no energy score)"
