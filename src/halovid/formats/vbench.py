"""VBench's folder layout: every clip is named after its prompt.

FOLDER/PROMPT-I.mp4    the I-th clip of a prompt, I = 0, 1, ...
FOLDER/prompts.json    {file name: prompt}, VBench's --prompt_file: only needed for prompts that can't be file names

VBench's standard mode judges by the first entry of the folder what kind of files it holds, so prompts.json is written
only if a prompt needs it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

from halovid.formats.base import Collection, Exported, RunData, copy_file
from halovid.formats.sources import SourceProblem, list_videos, resolve_inside
from halovid.store.errors import InputError
from halovid.store.files import write_json
from halovid.store.foreign import read_json
from halovid.store.video import probe_video

PROMPTS = "prompts.json"
_INDEX = re.compile(r"-\d+$")
_MAX_NAME = 255  # bytes of a file name on the usual file systems


def read(source: Path) -> Collection:
    """The clips of a folder, with the prompts given by prompts.json or else by the file names."""
    collection = Collection()
    prompts = _read_prompts(source / PROMPTS)
    for file in list_videos(source):
        try:
            path = resolve_inside(source, file)
            prompt = prompts.pop(file, _INDEX.sub("", Path(file).stem)).strip()
            collection.add_file(source, path, prompt)
        except SourceProblem as problem:
            collection.skip(repr(file), str(problem))
    for file in prompts:
        collection.skip(file, f"{PROMPTS} names it and there is no such clip")
    return collection


def _read_prompts(path: Path) -> dict[str, str]:
    """File name -> prompt, from prompts.json; empty when there is no such file."""
    prompts = read_json(path) if path.exists() else {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise InputError(f"{path} must be one JSON object of file names and prompts")
    return prompts


def write(run: RunData, target: Path) -> Exported:
    """Writes the clips under the names of their prompts, numbered per prompt in the order of the clip table."""
    skipped: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    prompts = {}
    for clip in run.clips:
        prompt = clip.row["prompt"]
        try:
            source = clip.file()
            probe_video(source)
        except (SourceProblem, InputError) as error:
            skipped.append((clip.clip_id, str(error)))
            continue
        name = f"{prompt}-{counts[prompt]}.mp4"
        if not _is_file_name(name) or (target / name).exists():  # two prompts may differ in case only
            name = f"prompt-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}-{counts[prompt]}.mp4"
            prompts[name] = prompt
        counts[prompt] += 1
        copy_file(source, target / name)
    if prompts:
        write_json(target / PROMPTS, prompts)
    return Exported("clips", counts.total(), skipped)


def _is_file_name(name: str) -> bool:
    """Whether every system allows this file name."""
    return len(name.encode()) <= _MAX_NAME and not re.search(r'[/\\:*?"<>|\x00-\x1f]', name) and name[0] not in ". "
