"""Settings of past recipes that have another name now, or that others took the place of."""

from __future__ import annotations

# old dotted name -> new one. A recipe that has an old name is told the new one; nothing reads the old name any more.
RENAMED_SETTINGS = {
    "align.accumulation": "align.micro_batches",
    "align.clip_norm": "align.max_grad_norm",
    "score.server.tries": "score.server.attempts",
}
# old dotted name -> what to write instead
REPLACED_SETTINGS = {
    "evaluate.truth": "name 'inspector' in evaluate.instruments for the embedded world's truth, or leave it out",
    "evaluate.critic": "name 'critic' in evaluate.instruments for the embedded world's critic, or leave it out",
    "evaluate.judge": "name 'judge' in evaluate.instruments to have the judge rate the clips, or leave it out",
    "evaluate.reward": "name 'reward' in evaluate.instruments to have the reward model rate them, or leave it out",
}
