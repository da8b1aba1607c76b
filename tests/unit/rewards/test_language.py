"""Vision-language models as backbones: grids, prompts, batches, locality, adapters, what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from halovid.config.reward import RewardConfig
from halovid.config.sections import LoraOptions
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.rewards.backbones import make_spec
from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from halovid.rewards.scoring import SCORERS
from halovid.store.errors import InputError
from tiny_models import BACKBONE_OF, LANGUAGE, write_language_model

GEOMETRY = LatentGeometry(4, 8, True)
SIZE = (9, 16, 24)
PROMPTS = ["a red ball", "two green cubes roll over a table"]
ASPECTS = ("visual_quality", "text_alignment")


@pytest.fixture(scope="module")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per kind of LANGUAGE. Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("models")
    return {kind: write_language_model(kind, root / kind) for kind in LANGUAGE}


def make_network(kind: str, folder: Path, dtype: str = "float32", **changes: object) -> RewardNetwork:
    config = RewardConfig(
        backbone=BACKBONE_OF.get(kind, "qwen_vl"),  # type: ignore[arg-type]
        model=str(folder),
        aspects=ASPECTS,
        patch_aspects=ASPECTS[:1],
        **({"patch_size": 8} | changes),  # type: ignore[arg-type]
    )
    torch.manual_seed(1)
    spec = make_spec(config, SIZE, GEOMETRY, 8.0, 5, dtype)
    return RewardNetwork(RewardSpec(backbone=spec, aspects=ASPECTS, patch_aspects=ASPECTS[:1])).eval()


def make_video(clips: int = 2) -> Tensor:
    return torch.rand(clips, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(scope="module", params=list(LANGUAGE))
def network(request: pytest.FixtureRequest, language_models: dict[str, Path]) -> RewardNetwork:
    return make_network(request.param, language_models[request.param]).requires_grad_(False)


def grid_of(network: RewardNetwork) -> tuple[int, int, int]:
    """Of 9 frames, the first standing for four, so 12; and of 16 x 24 pixels, 8 to a token."""
    if network.spec.backbone.name == "qwen_vl":
        return 6, 2, 3
    return (12, 4, 4) if network.spec.backbone.name == "smolvlm" else (12, 2, 3)


def test_features_lie_on_the_grid_of_visual_tokens(network: RewardNetwork) -> None:
    features = network.features(make_video(), network.backbone.tokenize(PROMPTS))
    assert features.grid.shape == (2, *grid_of(network), 24)
    assert features.clip.shape == (2, 24)
    assert network.rate_patches(features, PatchGrid(3, 2, 2)).shape == (2, 1, 3, 2, 2)
    assert torch.isfinite(features.grid).all()


def test_a_batch_of_prompts_of_any_length_is_read_like_each_alone(network: RewardNetwork) -> None:
    video, prompts = make_video(), network.backbone.tokenize(PROMPTS)
    together = network.features(video, prompts)
    for row in range(2):
        alone = network.features(video[row : row + 1], network.backbone.tokenize(PROMPTS[row : row + 1]))
        torch.testing.assert_close(alone.grid[0], together.grid[row], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(alone.clip[0], together.clip[row], atol=2e-4, rtol=1e-3)


def test_visual_tokens_have_read_the_prompt(network: RewardNetwork) -> None:
    video = make_video(1)
    one, other = (network.features(video, network.backbone.tokenize([prompt])).grid for prompt in PROMPTS)
    assert (one - other).abs().amax(-1).min() > 1e-4  # every one of them


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 1, 1)])
def test_a_cell_sees_its_own_pixels(network: RewardNetwork, place: tuple[int, int, int]) -> None:
    t, y, x = place
    video, prompts = make_video(1), network.backbone.tokenize(PROMPTS[:1])
    if network.spec.backbone.name == "idefics2":  # its resampled tokens lie nowhere before a training
        torch.nn.init.normal_(network.backbone.local.weight, std=3, generator=torch.Generator().manual_seed(0))
    changed = video.clone()
    frames = slice(0, 1) if t == 0 else slice(4 * t - 3, 4 * t + 1)
    changed[:, :, frames, 8 * y : 8 * y + 8, 12 * x : 12 * x + 12] *= -1
    before, after = (network.features(clip, prompts).grid.movedim(-1, 1) for clip in (video, changed))
    moved = torch.nn.functional.adaptive_avg_pool3d((after - before).norm(dim=1), (3, 2, 2))[0]
    assert moved[place] == moved.max()
    if network.spec.backbone.name != "idefics2":  # causal: nothing before the change moves
        assert moved[:t].abs().sum() < 1e-3


def test_control_tokens_in_a_prompt_are_only_text(network: RewardNetwork) -> None:
    backbone = network.backbone
    bad = "a <image> of <|video_pad|> <|im_end|> {video} {prompt} <ima<image>ge>"
    visual = backbone._reader.visual  # type: ignore[union-attr, operator]
    counts = [(backbone.tokenize([prompt]) == visual).sum().item() for prompt in (PROMPTS[0], bad)]
    assert counts[0] == counts[1]
    assert torch.isfinite(network.features(make_video(1), backbone.tokenize([bad])).grid).all()


@pytest.mark.parametrize("scoring", list(SCORERS))
def test_both_scorings_take_it(network: RewardNetwork, scoring: str) -> None:
    clips, patches = SCORERS[scoring](network, make_video(), network.backbone.tokenize(PROMPTS), PatchGrid(1, 2, 2))
    assert clips.shape == (2, 2) and patches.shape == (2, 1, 1, 2, 2)


def test_a_saved_network_comes_back(network: RewardNetwork, tmp_path: Path) -> None:
    save_reward(network, tmp_path)
    loaded = load_reward(tmp_path)
    inputs = make_video(), network.backbone.tokenize(PROMPTS)
    assert torch.equal(loaded.features(*inputs).grid, network.features(*inputs).grid)


@pytest.mark.parametrize("kind", list(LANGUAGE))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_start_as_nothing_and_alone_are_trained_and_stored(
    kind: str, checkpointing: bool, language_models: dict[str, Path], tmp_path: Path
) -> None:
    plain = make_network(kind, language_models[kind])
    network = make_network(kind, language_models[kind], method="lora", lora=LoraOptions(rank=2, alpha=4))
    inputs = make_video(), network.backbone.tokenize(PROMPTS)
    torch.testing.assert_close(network.features(*inputs).grid, plain.features(*inputs).grid)
    network.train()
    if checkpointing:
        network.backbone.checkpoint_gradients()
    features = network.features(*inputs)
    (network.rate_videos(features).square().sum() + network.rate_patches(features, PatchGrid(1, 2, 2)).sum()).backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert any(".lora_B" in name for name in trained)
    assert not any(name.startswith("backbone.model") and ".lora_" not in name for name in trained)
    assert not any("vision" in name or "visual" in name for name in trained)
    for name, parameter in network.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_reward(network.eval(), tmp_path)
    stored = network.stored_state()
    assert sum(value.numel() for value in stored.values()) < 0.2 * sum(v.numel() for v in network.state_dict().values())
    loaded = load_reward(tmp_path)
    assert torch.equal(loaded.features(*inputs).grid, network.features(*inputs).grid)
    assert not torch.equal(loaded.features(*inputs).grid, plain.features(*inputs).grid)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics2"])
def test_checkpointed_gradients_are_the_same(kind: str, language_models: dict[str, Path]) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = make_network(kind, language_models[kind]).train()
        if checkpointing:
            network.backbone.checkpoint_gradients()
        network.features(make_video(1), network.backbone.tokenize(PROMPTS[:1])).grid.square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_mixed_precision_keeps_what_is_trained_in_float32(method: str, language_models: dict[str, Path]) -> None:
    network = make_network("qwen2_5_vl", language_models["qwen2_5_vl"], dtype="bfloat16", method=method).train()
    kinds = {p.dtype for p in network.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    frozen = {p.dtype for p in network.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if method == "lora" else set())
    inputs = make_video(1), network.backbone.tokenize(PROMPTS[:1])
    features = network.features(*inputs)
    assert features.grid.dtype == torch.float32
    exact = make_network("qwen2_5_vl", language_models["qwen2_5_vl"]).features(*inputs)
    assert (features.grid - exact.grid).norm() < 0.1 * exact.grid.norm()
    features.grid.sum().backward()


def test_many_short_clips_at_once_are_read_like_each_alone(network: RewardNetwork) -> None:
    """More clips than a clip has tokens: crops of a fine grid."""
    prompts = network.backbone.tokenize([""])
    many = prompts.shape[1] + 3
    if network.spec.backbone.name != "qwen_vl":
        many = 5
    video = make_video(2)
    features = network.features(video[:1].expand(many, -1, -1, -1, -1), prompts.expand(many, -1))
    alone = network.features(video[:1], prompts)
    torch.testing.assert_close(features.grid[-1], alone.grid[0], atol=2e-4, rtol=1e-3)


def test_a_slower_clip_of_qwen2_5_has_other_positions_in_time(language_models: dict[str, Path]) -> None:
    network = make_network("qwen2_5_vl", language_models["qwen2_5_vl"])
    slow = network.spec.backbone.model_copy(update={"fps": 1.0})
    slower = RewardNetwork(network.spec.model_copy(update={"backbone": slow})).eval()
    inputs = make_video(1), network.backbone.tokenize(PROMPTS[:1])
    moved = (slower.features(*inputs).grid - network.features(*inputs).grid).abs().amax((0, 2, 3, 4))
    assert moved[0] < 1e-4 < moved[-1]


def test_fewer_frames_are_spread_over_the_clip(language_models: dict[str, Path]) -> None:
    network = make_network("qwen3_vl", language_models["qwen3_vl"], frames=5)
    assert network.spec.backbone.frames == 6  # type: ignore[union-attr]  # pairs
    assert network.backbone._times.tolist() == [0, 0, 2, 4, 6, 8]
    text = network.backbone.template()  # type: ignore[operator]
    assert "<0.0 seconds>" in text and "<0.4 seconds>" in text and "<0.9 seconds>" in text  # 8 frames a second


def test_another_kind_of_model_or_no_model_is_an_input_error(language_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a 'smolvlm' model; backbone qwen_vl takes qwen2_5_vl, qwen2_vl"):
        make_network("qwen2_vl", language_models["smolvlm"])
    with pytest.raises(InputError, match=r"neither a folder nor a model that the hub gives"):
        make_network("qwen2_vl", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no readable config.json"):
        make_network("qwen2_vl", tmp_path)
    with pytest.raises(InputError, match=r"name no linear layer; there are .*q_proj"):
        make_network("qwen2_vl", language_models["qwen2_vl"], method="lora", lora=LoraOptions(targets=("to_q",)))
