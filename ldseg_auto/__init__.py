"""ldseg_auto: self-configuring medical image segmentation by end-to-end latent diffusion.

Nothing is read, created or imported here beyond these lines: `Predictor` and what goes with it load when they are first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldseg_auto.inference.predictor import Input as Input
    from ldseg_auto.inference.predictor import Options as Options
    from ldseg_auto.inference.predictor import Predictor as Predictor
    from ldseg_auto.inference.predictor import Wanted as Wanted

__version__ = "0.1.0"
PUBLIC = ("Input", "Options", "Predictor", "Wanted")


def __getattr__(name: str) -> Any:
    """What is public, loaded when it is named."""
    if name in PUBLIC:
        return getattr(import_module("ldseg_auto.inference.predictor"), name)
    raise AttributeError(f"module 'ldseg_auto' has no attribute '{name}'")
