"""What the machine refuses, in one sentence that says what to do: space, rights, handles, memory."""

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
    """The sentence for an error of the machine; None for any other, which is a mistake of the program.

    Args:
        saves_memory: what to lower where memory is lacking, as it follows the word "lower".

    Besides Python's own errors it knows those of torch, safetensors, pyarrow and PyAV by their texts, so that none of
    these has to be imported.
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
    """Raises an error again that says that the machine lacks memory, handles or space, or that its disk is faulty.

    For those who turn whatever a reader raises into a fault of the file: of a shortage no file is guilty, so that none
    may be left out, deleted or made anew because of it.

    Args:
        of_handles_alone: for readers that call a damaged file a lack of memory or a faulty disk, too.
    """
    os.close(os.open(os.devnull, os.O_RDONLY))  # safetensors calls a file missing when no handle is left for it
    code, _ = _code_and_path(error)
    if code in _HANDLES or (not of_handles_alone and (_is_memory(error) or code in _SHORTAGES)):
        raise error


def _is_memory(error: BaseException) -> bool:
    """Whether memory of the machine or of a device is lacking."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _code_and_path(error: BaseException) -> tuple[int | None, str | None]:
    """The system's error code and the file, as far as they are told; libraries may tell the code in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.filename2 or error.filename  # of a copy the second is written
    told = re.search(r"os error (\d+)|\[errno (\d+)\]", str(error), re.IGNORECASE)
    return (int(told[1] or told[2]), None) if told else (None, None)


def _is_refused_read(path: str, code: int) -> bool:
    """Whether it is reading that was refused: the file is there, or its folder can't be looked into."""
    if code not in (errno.EACCES, errno.EPERM):
        return False
    folder = Path(path).parent
    return not os.access(folder, os.X_OK) or (os.path.exists(path) and not os.access(path, os.R_OK))
