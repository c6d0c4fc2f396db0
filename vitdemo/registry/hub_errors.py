"""Errors of the Hub and the network as messages for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitdemo.errors import DownloadError
from vitdemo.registry import hub_cache
from vitdemo.registry.transfer import HubAnswerError
from vitdemo.types import ModelSpec


@contextmanager
def as_download_errors(name: str, known: ModelSpec | None) -> Iterator[None]:
    """Turn exceptions of a download into a `DownloadError`.

    Args:
        known: the model's entry in the table of official checkpoints, which says how to get access.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    how = known.gated if known is not None and known.gated else _access_hint(name)
    try:
        yield
    except GatedRepoError:
        raise DownloadError(f"{name} is gated. {how}") from None
    except HubAnswerError as error:
        if error.status in (401, 403):
            raise DownloadError(f"{name} is gated or private. {how}") from None
        raise DownloadError(f"The Hub answered {error} for a file of {name}. Try again later.") from None
    except RevisionNotFoundError:
        raise DownloadError(f"{name}: the model is on the Hub, but not this revision of it.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise DownloadError(
            f"There is no model {name} on the Hub, or it is private. Check the spelling; for a private model set HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "nothing")
        if status == 401:
            raise DownloadError(
                "The Hub rejects the token of HF_TOKEN or of `hf auth login`. Replace or remove it."
            ) from None
        raise DownloadError(f"The Hub answered {status}. Try again later, or use an embedded model.") from None
    except Exception as error:
        if type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError | OfflineModeIsEnabled):
            raise DownloadError(
                f"{name} is not on this machine and the Hub cannot be reached ({type(error).__name__}). "
                "Use an embedded model, or try again."
            ) from None
        if isinstance(error, OSError):
            raise DownloadError(
                f"The files of {name} cannot be stored: {error.strerror or type(error).__name__}. "
                "Set HF_HOME to a writable folder."
            ) from None
        raise


def _access_hint(name: str) -> str:
    page = f"https://huggingface.co/{hub_cache.split(name)[0]}"
    return f"Ask for access at {page} with your account, then give its token as HF_TOKEN."
