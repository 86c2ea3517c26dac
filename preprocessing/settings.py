"""What decides the preprocessed voxels beside the input, as one hash: a case made with other settings counts as unfinished."""

from __future__ import annotations

from typing import Any

from ldseg_auto.data.description import Description
from ldseg_auto.files import hash_json
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.planners.serialise import to_dict

FORMAT = 1  # of the stored cases; raise it when their meaning changes


def settings_hash(plans: Plans, configuration: Configuration, description: Description) -> str:
    """Names everything beside the input that decides the preprocessed voxels.

    Configurations that share a folder have the same voxels, and the hash of the first of them: a 2D spacing says less than a 3D one.
    """
    sharing = (c for c in plans.configurations.values() if c.data_identifier == configuration.data_identifier)
    configuration = next(sharing, configuration)
    content: dict[str, Any] = {
        "format": FORMAT,
        "transpose": list(plans.transpose_forward),
        "spacing": list(configuration.spacing),
        "normalisation": list(configuration.normalisation),
        "use_mask": list(configuration.use_mask_for_norm),
        "resampling": to_dict(configuration.resampling),
        "intensities": to_dict(plans.foreground_intensities) if "ct" in configuration.normalisation else None,
        "labels": [*description.labels.values, description.labels.ignore_value],
    }
    return hash_json(content)
