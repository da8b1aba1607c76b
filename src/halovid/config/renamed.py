"""Settings of recipes of the past that have another name now, or are gone."""

from __future__ import annotations

# old dotted name -> new one. A recipe that has an old name is told the new one; nothing reads the old name any more.
RENAMED_SETTINGS = {
    "align.accumulation": "align.micro_batches",
    "align.clip_norm": "align.max_grad_norm",
    "score.server.tries": "score.server.attempts",
}

# dotted name of a setting that is gone -> why it is not needed
REMOVED_SETTINGS = {
    "generator.family": "the pipeline that generator.model names tells it",
}
