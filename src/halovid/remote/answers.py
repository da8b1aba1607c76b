"""Answers on disk, by the hash of the question: none is paid for twice, not even by several runs at the same time.

FOLDER/ab/abcdef....json    the question in words (pictures by their hash), the answer, what it cost, what was rejected
FOLDER/ab/.lock             locked while a question of this subfolder is being asked, by the process that asks
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from halovid.config.endpoints import CallConfig
from halovid.remote.failures import NotKept
from halovid.store.errors import InputError
from halovid.store.files import hash_value, write_json


def default_folder() -> Path:
    """Where answers are kept when the recipe names no folder: in the user's cache folder."""
    return Path(platformdirs.user_cache_dir("halovid", appauthor=False)) / "answers"


def answer_folder(config: CallConfig, section: str) -> AnswerFolder:
    """The folder of answers that a section of the recipe names, or the default one."""
    return AnswerFolder(config.answers or default_folder(), f"{section}.answers")


class AnswerFolder:
    """Keeps answers. Keys of endpoints are no part of a question and never come here.

    Args:
        setting: of the recipe that names the folder, for messages.
    """

    def __init__(self, folder: Path, setting: str) -> None:
        self._folder, self._setting = folder, setting
        self._locks: dict[str, FileLock] = {}  # subfolder -> its lock, taken once for each of its questions
        # held while a question is asked: the same question of two equal clips must not be paid for twice
        self.asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def open(self) -> None:
        """Makes the folder and gets ready to keep answers in it.

        Raises:
            InputError: it can't be written, which is better known before the first answer is paid for.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"can't write the folder {self._setting} {self._folder}: {error.strerror}; choose another one"
            ) from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise InputError(f"can't write the folder {self._setting} {self._folder}; choose another one")

    def close(self) -> None:
        """Releases all questions; after it `open` may be called again."""
        for lock in self._locks.values():
            lock.release(force=True)

    def take(self, key: str) -> bool:
        """Whether this process may ask the question; from then on others may not, as long as it lives.

        They wait with all questions of the same subfolder, a 256th of all.

        Raises:
            NotKept: the disk would not keep the answer.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            self._lock(key).acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise NotKept(f"answers can't be kept at {path}: {error.strerror}") from None
        return True

    def release(self, key: str) -> None:
        """Lets other processes ask a question that was taken."""
        self._lock(key).release()

    def load(self, key: str) -> str | None:
        """The text of an answer, or None when there is none, or what is there is damaged.

        Raises:
            NotKept: the file can't be read. The answer may be paid for, so it must not be asked for again.
        """
        path = self._path(key)
        try:
            answer = json.loads(path.read_text(encoding="utf-8"))["answer"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise NotKept(f"the answer at {path} can't be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return answer if isinstance(answer, str) else None

    def save(self, key: str, record: dict[str, Any]) -> None:
        """Writes what came back for a question; its `answer` is the text, or None when it could not be used.

        Raises:
            NotKept: it can't be written.
        """
        try:
            write_json(self._path(key), record)
        except OSError as error:
            raise NotKept(f"answers can't be kept at {self._path(key)}: {error.strerror}") from None

    def _lock(self, key: str) -> FileLock:
        """The lock of a question's subfolder; it counts how often this process has taken it."""
        path = self._path(key).with_name(".lock")
        return self._locks.setdefault(path.parent.name, FileLock(path, thread_local=False))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def question_key(base_url: str, body: dict[str, Any], vote: int) -> str:
    """The identity of a question: who is asked, the whole request, and the number of the vote."""
    return hash_value({"base_url": base_url, "body": body, "vote": vote})


def readable_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with each picture replaced by its SHA-256."""
    return [message | {"content": _without_pictures(message["content"])} for message in messages]


def _without_pictures(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [
        {"type": "image", "sha256": hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()}
        if part["type"] == "image_url"
        else part
        for part in content
    ]
