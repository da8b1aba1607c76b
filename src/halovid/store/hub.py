"""Models on the Hugging Face hub: the commit of one that a run will use, found before anything is downloaded."""

from __future__ import annotations

from pathlib import Path

from halovid.store.errors import InputError
from halovid.store.troubles import raise_shortage

_SECONDS = 10.0  # that the hub has to answer
_REASONS = {
    "HFValidationError": "the hub has no models of such a name",
    "RepositoryNotFoundError": "the hub has no such model that you may read",
    "RevisionNotFoundError": "the hub has no such revision of it",
}


def cached_commit(model: str, revision: str | None = None) -> str | None:
    """The commit of a model's copy on this machine; None if there is no copy.

    Args:
        revision: a branch, tag or commit; None for the main branch.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True)).name
    except (OSError, ValueError) as error:  # not downloaded, or no possible name of a model
        raise_shortage(error)
        return None


def hub_commit(model: str, revision: str | None = None, subject: str = "") -> str:
    """The commit of a model: that of the copy on this machine, or else the hub's.

    Args:
        revision: see `cached_commit`.
        subject: the setting that names the model, with which messages begin: "generator.model".

    Raises:
        InputError: there is no such model, or no copy here and the hub can't be asked.
    """
    import huggingface_hub

    commit = cached_commit(model, revision)
    if commit is not None:
        return commit
    try:
        commit = huggingface_hub.model_info(model, revision=revision, timeout=_SECONDS).sha
        reason = "the hub tells no commit of it"
    except Exception as error:  # what the client of the hub raises without a network changes with its version
        raise_shortage(error)
        first_line = (str(error).splitlines() or [""])[0]
        unreachable = f"it was not downloaded before, and the hub can't be asked: {type(error).__name__}: {first_line}"
        reason = _REASONS.get(type(error).__name__, unreachable)
    if commit is None:
        raise InputError(f"{subject} {model!r} is neither a folder nor a model that the hub gives ({reason})".lstrip())
    return commit
