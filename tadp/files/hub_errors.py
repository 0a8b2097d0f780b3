"""What went wrong between this machine and the Hugging Face hub, in a sentence or two that say what to do."""

from collections.abc import Iterator

from huggingface_hub import constants, errors

# `errors.HTTPError` is that of the HTTP client that huggingface_hub uses. It includes connections that broke.
HUB_ERRORS = (errors.HTTPError, errors.HFValidationError, OSError)  # pyright: ignore[reportPrivateImportUsage]
_LOG_IN = "run 'hf auth login', or pass token=…"


def why(error: BaseException, name: str) -> str:
    """Explain why a repository could not be read.

    Args:
        error: The exception that huggingface_hub raised.
        name: The repository's id.
    """
    answer = _answer(error)
    status = None if answer is None else answer.response.status_code
    if isinstance(answer, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{name}"
        if status == 401:
            return f"it is gated. Accept its terms at {page}, and {_LOG_IN}."
        return f"it is gated, and the user of this token may not read it. Accept its terms at {page}."
    if isinstance(answer, errors.RevisionNotFoundError):
        return "the repository has no such revision."
    if isinstance(answer, errors.RemoteEntryNotFoundError):
        return "the repository has no such file."
    if isinstance(answer, errors.RepositoryNotFoundError):
        return f"the hub has no such public repository. If it is private, {_LOG_IN}."
    if status == 401:
        return f"the hub does not accept this token. To use another one, {_LOG_IN}."
    if status == 403:
        return f"this token may not read it (HTTP 403). To use another one, {_LOG_IN}."
    if answer is None and _is_offline(error):
        return (
            "it is not completely in the local cache, and the hub did not answer or offline mode is on. With a "
            "connection it is downloaded automatically."
        )
    return _trouble(error, answer) or str(error).strip().splitlines()[0]


def why_not_pushed(error: BaseException, name: str) -> str:
    """Explain why a folder could not be pushed to a repository.

    Args:
        error: The exception that huggingface_hub raised.
        name: The repository's id.
    """
    answer = _answer(error)
    status = None if answer is None else answer.response.status_code
    if status == 401:
        return (
            f"the hub needs a token that may write. Create one at {constants.ENDPOINT}/settings/tokens, and {_LOG_IN}."
        )
    if status == 403:
        return (
            f"this token may not write to the account {name.split('/')[0]!r} (HTTP 403). Push to your own account, or "
            "use a token that may write there."
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return "the repository has no such branch."
    if _is_offline(error):
        return "offline mode is on. Unset HF_HUB_OFFLINE."
    return _trouble(error, answer) or str(error).strip().splitlines()[-1]


def _trouble(error: BaseException, answer: errors.HfHubHTTPError | None) -> str | None:
    """What can be wrong in both directions: the hub refuses for a while, or the connection broke."""
    if answer is not None:
        status = answer.response.status_code
        if status == 429:
            seconds = answer.response.headers.get("Retry-After")
            wait = f"Wait {seconds} seconds" if seconds else "Wait a few minutes"
            return f"the hub had too many requests from here (HTTP 429). {wait}, and try again."
        if status >= 500:
            return f"the hub has a problem of its own (HTTP {status}). Try again later."
        return None
    if any(isinstance(link, errors.HTTPError) for link in _chain(error)):  # pyright: ignore[reportPrivateImportUsage]
        return f"the connection broke ({_first_line(error)}). Try again; files that are complete are kept."
    return None


def _is_offline(error: BaseException) -> bool:
    return any(isinstance(link, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) for link in _chain(error))


def _answer(error: BaseException) -> errors.HfHubHTTPError | None:
    """The hub's answer behind an error. huggingface_hub wraps it, for example if the cache has no copy either."""
    return next((link for link in _chain(error) if isinstance(link, errors.HfHubHTTPError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    innermost = list(_chain(error))[-1]
    return (str(innermost).strip() or type(innermost).__name__).splitlines()[0]
