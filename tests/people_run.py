"""A run whose clips people can label, made without any model, and the labelling server of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from conftest import with_hashes
from halovid.store.files import write_json
from halovid.store.manifests import write_manifest
from halovid.store.tables import CLIPS, rows_to_table, write_table
from halovid.store.video import clip_suffix, write_video

ASPECTS = ("visual_quality", "temporal_consistency", "dynamic_degree", "text_alignment", "factual_consistency")
HOSTILE = '</script><img src=x onerror="document.title=1"> {{ 7*7 }} \N{FOX FACE}'
NUM_FRAMES, FPS = 13, 8.0


def make_run(
    run_dir: Path, prompts: int = 2, candidates: int = 3, evaluated: bool = False, num_frames: int = NUM_FRAMES
) -> Path:
    """A run folder whose stage generate (and evaluate) is complete; the first prompt is hostile."""
    folders = ["generate"] + (["baseline", "evaluate"] if evaluated else [])
    for folder in folders:
        rows = [
            _write_clip(run_dir / folder, prompt, index, num_frames)
            for prompt in range(prompts)
            for index in range(candidates)
        ]
        write_table(run_dir / folder / "clips.parquet", rows_to_table(rows, CLIPS))
        geometry = {"temporal_stride": 4, "spatial_stride": 4, "causal_first_frame": True}
        write_json(run_dir / folder / "geometry.json", geometry)
        write_manifest(run_dir / folder, {"fingerprint": folder, "outputs": {}, "skipped": []})
    return run_dir


def _write_clip(folder: Path, prompt: int, index: int, num_frames: int) -> dict[str, Any]:
    clip_id = f"p{prompt}-{index:02d}"
    video = torch.full((3, num_frames, 32, 48), -0.8)
    for frame in range(num_frames):
        video[prompt % 3, frame, 8:20, 2 * frame : 2 * frame + 12] = 0.3 * index
    file = f"clips/{clip_id}{clip_suffix(num_frames)}"
    write_video(folder / file, video, FPS)
    text = f"{HOSTILE} {prompt}" if prompt == 0 else f"a square moves, number {prompt}"
    files = {"video": file, "latents": f"latents/{clip_id}.safetensors"}
    row = {"clip_id": clip_id, "prompt_id": f"p{prompt}", "prompt": text, "seed": index, "fps": FPS, **files}
    return with_hashes(folder, row)


class Server:
    """`halovid label` in a process of its own."""

    def __init__(self, run_dir: Path, *options: str, port: int = 0) -> None:
        source = str(Path(__file__).parents[1] / "src")
        environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "halovid", "label", str(run_dir), "--port", str(port), *options]
        self.run_dir = run_dir
        self.log = run_dir.parent / f"server-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.address = self._wait()

    def _wait(self) -> str:
        for _ in range(600):
            found = re.search(r"label at (http://\S+)", self.log.read_text())
            if found and self._answers(found[1]):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"no server after 60 s: {self.log.read_text()}")

    @staticmethod
    def _answers(address: str) -> bool:
        try:
            return urllib.request.urlopen(address, timeout=2).status == 200
        except OSError:
            return False

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Posts JSON; the answer."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def kill(self) -> None:
        """Ends it as a crash would: kill -9."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(run_dir: Path, *options: str, port: int = 0) -> Iterator[Server]:
    """A server that is gone at the end."""
    server = Server(run_dir, *options, port=port)
    try:
        yield server
    finally:
        server.kill()


def good_scores(value: int = 4) -> dict[str, int]:
    """The same score in every aspect."""
    return dict.fromkeys(ASPECTS, value)
