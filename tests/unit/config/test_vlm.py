"""The configuration of the judge that asks models: no secrets in it, no contradictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from halovid.config.recipes import load_config, make_config
from halovid.config.run import RunConfig
from halovid.config.sections import ASPECTS
from halovid.config.vlm import ModelConfig, VlmConfig
from halovid.judges import make_judge
from halovid.maths.grid import PatchGrid
from halovid.store.errors import InputError

SECRET = "sk-4f9dNeverShowThis"


def vlm(**settings: Any) -> RunConfig:
    return make_config({"judge": {"judge": "openai", "vlm": settings}})


@pytest.mark.parametrize(
    "settings",
    [
        {"key_variable": SECRET},
        {"base_url": f"https://user:{SECRET}@host/v1"},
        {"base_url": f"https://{SECRET}@host/v1"},
        {"base_url": f"https://host/v1?api-key={SECRET}"},
        {"base_url": f"https://host/v1#{SECRET}"},
        {"panel": [{"model": "m", "base_url": f"http://u:{SECRET}@h"}]},
        {"panel": [{"model": "m", "key_variable": SECRET}]},
        {"panel": {"base_url": f"http://u:{SECRET}@h/v1"}},
        {"panel": [SECRET]},
        {"budget": SECRET},
        {"strategy": SECRET},
        {"base_url": f"https://host:{SECRET}/v1"},
        {"base_url": f"https://\N{ACCOUNT OF}{SECRET}/v1"},
        {"key": SECRET},
        {"api_key": SECRET},
    ],
)
def test_a_key_in_the_recipe_is_refused_and_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        vlm(**settings)
    assert SECRET not in str(caught.value)
    assert "judge.vlm" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        f"judge.vlm={SECRET}",
        f"judge.vlm.base_url=[{SECRET}",
        f"seed.vlm={SECRET}",
        f"judge.vlm.panel={{base_url: 'http://u:{SECRET}@h/v1'}}",
        f"judge.labels=['http://u:{SECRET}@h/v1']",
    ],
)
def test_a_key_in_an_override_is_not_repeated(override: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"not shown|not valid YAML|is a value") as caught:
        load_config(tmp_path / "r.yaml", (override,))
    assert SECRET not in str(caught.value)


def test_a_number_that_is_not_allowed_is_repeated() -> None:
    with pytest.raises(InputError, match=r"judge\.vlm\.votes: got 0\. "):
        vlm(votes=0)


@pytest.mark.parametrize("url", ["host/v1", "ftp://host/v1", "https://", "", "http://h:99999/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="base_url"):
        vlm(base_url=url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"votes": 2}, "temperature is 0"),
        ({"panel": [{"model": "m", "votes": 3}]}, "temperature is 0"),
        ({"panel": [{"model": "gpt-4o"}]}, "names a model twice"),
        ({"budget": {"money": 1}}, "needs the input_price"),
        ({"budget": {"calls": -1}}, "greater than or equal to 0"),
        ({"patch_aspects": ["visual_quality"]}, r"the reward model learns \['temporal_consistency'\]"),
        ({"panel": [{"modle": "m"}]}, "did you mean 'model'"),
    ],
)
def test_contradictions_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vlm(**settings)


def test_all_models_vote() -> None:
    config = VlmConfig(model="a", temperature=1, votes=2, panel=(ModelConfig(model="b"),))
    assert [(model.model, model.votes) for model in config.models] == [("a", 2), ("b", 1)]
    assert config.models[0] == ModelConfig(model="a", votes=2)


def name(**settings: Any) -> str:
    return make_judge(vlm(**settings).judge, PatchGrid(1, 1, 1), 0).name


def test_the_name_tells_what_was_asked_and_not_how_long_it_may_take() -> None:
    assert name().startswith("openai-1(gpt-4o, patches, show=grid, rubric=")
    other = [
        {"model": "m"},
        {"base_url": "http://h/v1"},
        {"temperature": 0.5},
        {"temperature": 0.5, "votes": 2},
        {"panel": [{"model": "m"}]},
        {"strategy": "boxes"},
        {"show": "tubes"},
        {"clip_frames": 3},
        {"patches_per_call": 3},
        {"aspects": list(ASPECTS[::-1])},
    ]
    names = [name(), *(name(**settings) for settings in other)]
    assert len(set(names)) == len(names)
    for settings in (
        {"budget": {"calls": 3}},
        {"concurrency": 1},
        {"input_price": 1.0},
        {"timeout": 1},
        {"attempts": 1},
    ):
        assert name(**settings) == name()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith(("halovid.judges.vlm", "halovid.remote"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"needs the package 'openai': pip install 'halovid\[vlm\]'"):
        name()


def test_the_recipe_has_a_price_and_a_limit() -> None:
    judge = load_config(Path(__file__).parents[3] / "recipes" / "wan2.1-1.3b-gpt4o.yaml").judge
    assert judge.judge == "openai"
    assert judge.vlm.input_price and judge.vlm.output_price and judge.vlm.budget.money


def test_the_folder_of_answers_is_taken_from_beside_the_recipe(tmp_path: Any) -> None:
    (tmp_path / "r.yaml").write_text("judge: {vlm: {answers: kept}}\n")
    assert load_config(tmp_path / "r.yaml").judge.vlm.answers == tmp_path / "kept"
    assert load_config(tmp_path / "r.yaml", ("judge.vlm=null",)).judge.vlm.answers is None
