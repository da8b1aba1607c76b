"""A tiny pipeline of each family, its model and what it makes, for the tests of what holds for every family.

A module that says `pytest_plugins = ["family_fixtures"]` has these fixtures; no test changes what they give.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from family_models import LORA, PROMPTS, SEEDS, open_tiny
from halovid.models import DiffusionModel
from halovid.records import Conditioning
from tiny_pipelines import TINY, chosen


@pytest.fixture(scope="session", params=chosen(TINY))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of one family, on disk under its name in TINY."""
    path = tmp_path_factory.mktemp("pipelines") / request.param
    TINY[request.param].build().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def model(folder: Path) -> DiffusionModel:
    return open_tiny(folder)


@pytest.fixture(scope="session")
def conditioning(model: DiffusionModel) -> Conditioning:
    """Each prompt is encoded alone, as the stages do."""
    return Conditioning.cat([model.encode_prompts([prompt]) for prompt in PROMPTS])


@pytest.fixture(scope="session")
def samples(model: DiffusionModel, conditioning: Conditioning) -> Tensor:
    return model.sample(conditioning, SEEDS)


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory, samples: Tensor) -> tuple[DiffusionModel, Path]:
    """The model after two training steps of a LoRA, and the folder that this was saved in."""
    model = open_tiny(folder)
    torch.manual_seed(0)
    model.add_lora(LORA)
    texts = model.encode_prompts(PROMPTS)
    [network] = model.denoisers.values()
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    level, noise = torch.tensor([0.5, 0.8]), torch.randn_like(samples)
    for _ in range(2):
        output = model.predict(model.noise.noisy(samples, noise, level), level, texts)
        (output - model.noise.target(samples, noise, level)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    saved = tmp_path_factory.mktemp("lora")
    model.save_weights(saved)
    return model, saved
