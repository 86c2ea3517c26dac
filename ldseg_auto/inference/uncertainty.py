"""Predictive entropy and mutual information of draws, voxel by voxel, in nats.

| paper | here |
|---|---|
| p_d(c), draw d of D | `probabilities` |
| H[mean_d p_d], total | `entropy` of the mean |
| mean_d H[p_d], expected | mean of `entropy` over the draws |
| I = H[mean_d p_d] - mean_d H[p_d] | `mutual_information` |

(Depeweg et al. 2018, "Decomposition of Uncertainty in Bayesian Deep Learning", eq. 1; the draws here are samples of a diffusion model and
models of several folds.) With regions, which may overlap, both are sums over regions of the binary ones. Both are sums over heads, so that
a caller can go head by head and slab by slab: `export.py` holds neither the heads of a draw nor their mean together.
"""

from __future__ import annotations

import numpy as np


def entropy(probabilities: np.ndarray, regions: bool) -> np.ndarray:
    """Entropy `(*spatial)` float32 of probabilities `(heads, *spatial)`; 0 log 0 = 0.

    Between 0 and log(heads); with regions between 0 and heads * log(2). Of some of the heads it is their part of the sum.
    """
    out = np.zeros(probabilities.shape[1:], np.float32)
    for head in probabilities:
        out += _term(head)
        if regions:
            out += _term(1 - head)
    return out


def mutual_information(total: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Entropy of the mean less the mean entropy of the draws, both `(*spatial)`, as float32.

    It lies between 0 and `total` (entropy is concave); what rounding leaves outside counts as the end.
    """
    return np.clip(total - expected, 0, np.maximum(total, 0)).astype(np.float32)


def _term(p: np.ndarray) -> np.ndarray:
    """-p log p, 0 at p = 0; what rounding leaves outside 0 to 1 counts as the end."""
    from scipy.special import entr  # here: a fifth of a second of start-up that label maps alone do without

    return np.asarray(entr(np.clip(np.asarray(p, np.float32), 0, 1)))
