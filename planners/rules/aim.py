"""What training aims at: the best mask, or the raters' distribution."""

from __future__ import annotations

AGREE = 0.7  # mean pairwise Dice between raters from which on the best mask is trained


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


def aims_at_mask(raters: int, agreement: float | None) -> bool:
    """Whether one mask is to be as good as it can be, though there may be several raters: where they agree on most of it, draws from their
    distribution cost more accuracy than their differences are worth (documentation/method.md, "Raters who agree").

    Args:
        agreement: mean pairwise Dice between raters; None where it is not known.
    """
    return raters == 1 or (agreement is not None and agreement >= AGREE)


def why(raters: int, agreement: float | None = None) -> str:
    """The reason, for the plans."""
    if raters == 1:
        return "one rater: the best mask (no energy score)"
    draws = "samples follow their distribution (energy score, no recycling)"
    if agreement is None:
        return f"{raters} raters, whose agreement is not known: {draws}"
    known = f"{raters} raters agree to a Dice of {agreement:.2f}"
    if aims_at_mask(raters, agreement):
        return f"{known}, {AGREE:g} or more: the best mask, as with one (--set method.diversity=1: {draws})"
    return f"{known}, less than {AGREE:g}: {draws}"
