"""Pretrained video encoders as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from halovid.config.reward import RewardConfig
from halovid.config.sections import LoraOptions
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.rewards.backbones import make_spec
from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from halovid.store.errors import InputError

SIZE = (9, 16, 24)
ASPECTS = ("visual_quality", "text_alignment")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GRIDS = {"videomae": (4, 2, 2), "vjepa2": (6, 2, 2)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as they are on the hub: VideoMAE after its pretraining, with the decoder; V-JEPA 2 with its predictor."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    videomae = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(
            **SMALL,
            image_size=32,
            patch_size=16,
            num_frames=8,
            intermediate_size=32,
            decoder_hidden_size=8,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        )
    )
    vjepa2 = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            **SMALL,
            crop_size=32,
            patch_size=16,
            mlp_ratio=2,
            pred_hidden_size=16,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
            pred_mlp_ratio=2,
        )
    )
    for name, model in (("videomae", videomae), ("vjepa2", vjepa2)):
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(root / name)
    return {name: root / name for name in GRIDS}


def make_network(name: str, folder: Path, **changes: object) -> RewardNetwork:
    config = RewardConfig(backbone=name, model=str(folder), heads=2, **changes)  # type: ignore[arg-type]
    torch.manual_seed(1)
    spec = make_spec(config, SIZE, LatentGeometry(4, 8, True), 8.0, 5, "float32")
    return RewardNetwork(RewardSpec(backbone=spec, aspects=ASPECTS, patch_aspects=ASPECTS[:1])).eval()


def make_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 3, *SIZE, generator=generator) * 2 - 1, torch.randn(2, 4, 5, generator=generator)


@pytest.mark.parametrize("name", list(GRIDS))
def test_features_are_those_of_the_pretrained_model(name: str, models: dict[str, Path]) -> None:
    network = make_network(name, models[name])
    features = network.features(*make_inputs())
    assert features.grid.shape == (2, *GRIDS[name], 16)
    assert network.backbone.pretrained
    own = transformers.AutoModel.from_pretrained(models[name]).state_dict()
    loaded = network.backbone.encoder.base.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(loaded[key], own[key]) for key in loaded)


@pytest.mark.parametrize("name", list(GRIDS))
@pytest.mark.parametrize("place", [(0, 0, 1), (2, 1, 0)])
def test_a_cell_sees_its_own_pixels(name: str, place: tuple[int, int, int], models: dict[str, Path]) -> None:
    t, y, x = place
    network, (video, prompts) = make_network(name, models[name]), make_inputs()
    changed = video.clone()
    frames = slice(0, 1) if t == 0 else slice(4 * t - 3, 4 * t + 1)
    changed[:, :, frames, 8 * y : 8 * y + 8, 12 * x : 12 * x + 12] *= -1
    moved = [network.features(clip, prompts).grid.movedim(-1, 1) for clip in (video, changed)]
    of_patches = torch.nn.functional.adaptive_avg_pool3d((moved[1] - moved[0]).norm(dim=1), (3, 2, 2))[0]
    assert of_patches[place] == of_patches.max()


@pytest.mark.parametrize("name", list(GRIDS))
def test_adapters_alone_are_trained_and_stored(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    plain = make_network(name, models[name])
    network = make_network(name, models[name], method="lora", lora=LoraOptions(rank=2, alpha=4))
    torch.testing.assert_close(network.features(*make_inputs()).grid, plain.features(*make_inputs()).grid)
    network.train()
    network.backbone.checkpoint_gradients()
    features = network.features(*make_inputs())
    (network.rate_videos(features).sum() + network.rate_patches(features, PatchGrid(2, 2, 2)).sum()).backward()
    for key, parameter in network.named_parameters():
        frozen = key.startswith("backbone.encoder") and ".lora_" not in key
        assert parameter.requires_grad != frozen, key
    assert not any(k.startswith("backbone.encoder") and ".lora_" not in k for k in network.stored_state())
    save_reward(network.eval(), tmp_path)
    loaded = load_reward(tmp_path)
    torch.testing.assert_close(loaded.features(*make_inputs()).grid, network.features(*make_inputs()).grid)


def test_the_wrong_model_is_an_input_error(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"is a 'vjepa2' model; videomae is needed here"):
        make_network("videomae", models["vjepa2"])
