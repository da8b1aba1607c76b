"""Settings of past recipes that were renamed, or replaced by other settings."""

from __future__ import annotations

# old dotted name -> new one. Only the message to whoever still writes the old name uses this; nothing reads old names.
RENAMED_SETTINGS = {
    "align.accumulation": "align.micro_batches",
    "align.clip_norm": "align.max_grad_norm",
    "align.loss": "align.objective",
    "align.objective.lambda_video": "align.objective.lambda_clip",
    "align.objective.beta_video": "align.objective.beta_clip",
    "align.objective.margin_power_video": "align.objective.margin_power_clip",
    "align.objective.lambda_nft": "align.objective.name: nft",
    "align.objective.nft_step": "align.objective.beta, beside name: nft",
    "align.objective.nft_margin": "align.objective.certain_margin, beside name: nft",
    "score.server.tries": "score.server.attempts",
}
# old dotted name -> what to write instead
REPLACED_SETTINGS = {
    "generator.family": "leave it out, the pipeline that generator.model names tells it",
    "evaluate.truth": "name 'inspector' in evaluate.instruments for the embedded world's truth, or leave it out",
    "evaluate.critic": "name 'critic' in evaluate.instruments for the embedded world's critic, or leave it out",
    "evaluate.judge": "name 'judge' in evaluate.instruments to have the judge rate the clips, or leave it out",
    "evaluate.reward": "name 'reward' in evaluate.instruments to have the reward model rate them, or leave it out",
}


def renamed_within(setting: str, value: object) -> dict[str, str]:
    """Old name -> new name of a setting and of the settings in its value; empty for one that was never renamed."""
    if setting not in RENAMED_SETTINGS:
        return {}
    new = RENAMED_SETTINGS[setting]
    names = {f"{new}.{key}": f"{setting}.{key}" for key in (value if isinstance(value, dict) else ())}
    return {setting: new} | {old: RENAMED_SETTINGS[name] for name, old in names.items() if name in RENAMED_SETTINGS}
