"""Errors because the machine lacks something (disk space, rights, file handles, memory), as sentences for the user."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_AGAIN = "what is finished is kept: mend this and run the same command again"
_FULL = "free some space"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f unlimited`)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.EIO: "the disk or the connection to it is faulty",
}
_HANDLES = (errno.EMFILE, errno.ENFILE)
_SHORTAGES = (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_status_alloc_failed")
_SAVES_MEMORY = (
    "the batch_size of the stage (to sample: generator.batch_size), or generator.num_frames, height and width; a "
    "training also needs less with align.micro_batches higher and align.gradient_checkpointing: true"
)


def explain_trouble(error: BaseException, saves_memory: str = _SAVES_MEMORY) -> str | None:
    """A sentence that says what the machine lacks and what to do; None for any other error, a mistake of the program.

    Errors of torch, safetensors, pyarrow and PyAV are known by their texts, so that none of these has to be imported.

    Args:
        saves_memory: which settings to lower when memory is lacking; the sentence puts it after the word "lower".
    """
    if _is_memory(error):
        device = next((f" on the {name} device" for name in ("CUDA", "MPS", "XPU") if name in str(error)), "")
        return (
            f"there is not enough memory{device}: lower {saves_memory}. What is finished is kept: run the same command "
            f"again"
        )
    code, path = _code_and_path(error)
    if code in _HANDLES:
        return f"too many files are open at once: raise the limit (`ulimit -n 4096`); {_AGAIN}"
    if code not in _ADVICE:
        return None
    verb = "read" if path is not None and _is_refused_read(path, code) else "write"
    return f"can't {verb} {path or 'a file'}: {os.strerror(code)}; {_ADVICE[code]}; {_AGAIN}"


def raise_shortage(error: BaseException, of_handles_alone: bool = False) -> None:
    """Raises the error again if the machine lacks memory, handles or space, or has a faulty disk; else does nothing.

    For code that takes whatever a reader raises for damage of the file: a file must not be skipped, deleted or made
    anew because of a shortage.

    Args:
        of_handles_alone: raise for a lack of file handles only, since some readers report a damaged file as a lack of
            memory or a faulty disk.
    """
    os.close(os.open(os.devnull, os.O_RDONLY))  # raises if no handle is left: safetensors then calls a file missing
    code, _ = _code_and_path(error)
    if code in _HANDLES or (not of_handles_alone and (_is_memory(error) or code in _SHORTAGES)):
        raise error


def _is_memory(error: BaseException) -> bool:
    """Whether an error says that the machine or a device is out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _NO_MEMORY)


def _code_and_path(error: BaseException) -> tuple[int | None, str | None]:
    """The system's error code and the file, as far as the error has them; some libraries put the code in the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.filename2 or error.filename  # the second file of a copy is the one that is written
    code_in_text = re.search(r"os error (\d+)|\[errno (\d+)\]", str(error), re.IGNORECASE)
    return (int(code_in_text[1] or code_in_text[2]), None) if code_in_text else (None, None)


def _is_refused_read(path: str, code: int) -> bool:
    """Whether the right to read was refused, not to write: the file or its folder can't be read."""
    if code not in (errno.EACCES, errno.EPERM):
        return False
    folder = Path(path).parent
    return not os.access(folder, os.X_OK) or (os.path.exists(path) and not os.access(path, os.R_OK))
