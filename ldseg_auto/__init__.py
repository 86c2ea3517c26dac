"""ldseg_auto: self-configuring medical image segmentation by end-to-end latent diffusion.

Nothing is read, created or imported here beyond this line of metadata: heavy modules load where they are used.
"""

__version__ = "0.1.0"
