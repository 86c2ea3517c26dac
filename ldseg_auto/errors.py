"""The errors that a user can cause, and mend."""

from __future__ import annotations


class LdsegError(Exception):
    """Something failed that is not the user's input; the commands end with exit code 1."""


class InputError(LdsegError, ValueError):
    """Bad input: the message says the name, the value, the rule and what to do; exit code 2."""


class DatasetError(InputError):
    """A dataset in raw format breaks a rule of the format."""


class PlansError(InputError):
    """Plans, or a fingerprint, hold a key or value that cannot be."""


class ModelError(InputError):
    """A model folder or checkpoint is missing, damaged or belongs to something else."""


class LostRank(LdsegError):
    """Another process of the same training has ended, or cannot be reached; why, that process knows."""


class Stopped(LdsegError):
    """The work was asked to stop, and did; the message says what is kept and how to go on."""
