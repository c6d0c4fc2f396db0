"""Errors whose message may be shown to a user.

    VitDemoError
    ├── SettingsError           an environment variable has an invalid value
    ├── InputError              invalid input; nothing else is affected
    │   ├── ImageError          not a readable image within the limits
    │   │   └── UrlError        a URL was refused or did not return a file
    │   ├── UnknownModelError   no model has this name
    │   ├── NotDownloadedError  a Hub model whose weights are not on this machine
    │   ├── OptionError         an option is unknown, out of range or does not apply
    │   └── ResultExpiredError  the result is no longer in memory
    ├── EngineError             the model could not be run
    │   ├── ClientLeftError     nobody waits for the result any more
    │   ├── CheckpointError     model files are missing, damaged or incomplete
    │   ├── DownloadError       model files could not be fetched, verified or stored
    │   ├── NoGPUError          a GPU that is lent for each call was refused, or was lost
    │   ├── ServiceError        the service that runs the models is not there, does not answer, or is another version
    │   ├── BusyError           more jobs wait than may
    │   ├── TooLargeError       the model exceeds the memory budget
    │   └── InvalidScoresError  the forward pass returned NaN or infinite values
    ├── TrainingError           training cannot continue; the last checkpoint is kept
    └── ChoiceStoppedError      a choice among models was stopped; what is done is kept

A message states the fault, the limit and a way out, never a traceback or a path on the server.
"""

from __future__ import annotations


class VitDemoError(Exception):
    """Base of errors whose message is safe to show to a user."""


class SettingsError(VitDemoError):
    """A `VITDEMO_*` environment variable has an invalid value."""


class InputError(VitDemoError):
    """The user's input is invalid."""


class ImageError(InputError):
    """The input is not a readable image within the limits."""


class UrlError(ImageError):
    """A URL was refused, or did not return a file."""


class UnknownModelError(InputError):
    """No model has this name."""


class NotDownloadedError(InputError):
    """The weights of a Hub model are not on this machine."""


class OptionError(InputError):
    """An option is unknown, out of range, or does not apply to the model."""


class ResultExpiredError(InputError):
    """The result is no longer in memory."""


class EngineError(VitDemoError):
    """The model could not be run."""


class ClientLeftError(EngineError):
    """Nobody waits for the result any more."""


class CheckpointError(EngineError):
    """Model files are missing, damaged or incomplete."""


class DownloadError(EngineError):
    """Model files could not be fetched, verified or stored."""


class NoGPUError(EngineError):
    """A GPU that is lent for each call was refused, or was lost."""


class ServiceError(EngineError):
    """The service that runs the models is not there, does not answer, or is another version."""


class BusyError(EngineError):
    """More jobs wait than may."""


class TooLargeError(EngineError):
    """The model exceeds the memory budget."""


class InvalidScoresError(EngineError):
    """The forward pass returned NaN or infinite values."""


class TrainingError(VitDemoError):
    """Training cannot continue; the last checkpoint is kept."""


class ChoiceStoppedError(VitDemoError):
    """A choice among models was stopped before its end; what is done is kept, and the same call resumes."""
