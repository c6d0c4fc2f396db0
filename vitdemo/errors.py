"""Errors whose message may be shown to a user.

    VitDemoError
    ├── SettingsError           an environment variable has a value that cannot be used
    ├── InputError              what the user gave cannot be used; nothing else is harmed
    │   ├── ImageError          the image door refused a picture
    │   │   └── UrlError        an address was refused, or did not deliver a picture
    │   ├── UnknownModelError   no model of that name
    │   ├── NotDownloadedError  a model of the Hub whose weights are not here yet
    │   ├── OptionError         a layer, head, method or target out of range
    │   └── ResultExpiredError      a result that is no longer in memory
    ├── EngineError             the model could not give an answer
    │   ├── CheckpointError     files missing, damaged, or without what is needed
    │   ├── DownloadError       the Hub was not reached, refused, or the files could not be kept
    │   ├── TooLargeError       the model does not fit into the memory that it may use
    │   └── InvalidScoresError  the forward pass gave NaN or infinite scores
    └── TrainingError           a run cannot go on; its last good state is kept

A message names the fault, the limit and the way out. It never holds a traceback or a path of the server.
"""

from __future__ import annotations


class VitDemoError(Exception):
    """Base of errors whose message is safe to show to a user."""


class SettingsError(VitDemoError):
    """A `VITDEMO_*` environment variable has a value that cannot be used."""


class InputError(VitDemoError):
    """What the user gave cannot be used."""


class ImageError(InputError):
    """The image door refused a picture."""


class UrlError(ImageError):
    """An address was refused, or did not deliver a picture."""


class UnknownModelError(InputError):
    """No model of that name."""


class NotDownloadedError(InputError):
    """A model of the Hub whose weights are not on this machine."""


class OptionError(InputError):
    """A layer, head, method or target that the model does not have."""


class ResultExpiredError(InputError):
    """What is asked for belongs to a result that is no longer in memory."""


class EngineError(VitDemoError):
    """The model could not give an answer."""


class CheckpointError(EngineError):
    """Files of a model are missing, damaged, or lack what is needed."""


class DownloadError(EngineError):
    """Files of a model could not be fetched, checked or kept."""


class TooLargeError(EngineError):
    """A model does not fit into the memory that models may use."""


class InvalidScoresError(EngineError):
    """The forward pass gave scores that are not finite numbers."""


class TrainingError(VitDemoError):
    """A training run cannot go on; its last good state is kept."""
