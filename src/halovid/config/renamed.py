"""Settings that have another name than in recipes of the past."""

from __future__ import annotations

# old dotted name -> new one. A recipe that has an old name is told the new one; nothing reads the old name any more.
RENAMED_SETTINGS = {
    "align.accumulation": "align.micro_batches",
    "align.clip_norm": "align.max_grad_norm",
    "score.server.tries": "score.server.attempts",
}
