"""Recipes: typed, complete, described, and with an answer to every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from halovid.config.objectives import GranDPOOptions, NftOptions
from halovid.config.packaged import PACKAGED_SIZES
from halovid.config.recipes import changed, load_config, make_config
from halovid.config.run import RunConfig
from halovid.config.sections import result_settings
from halovid.maths.grid import PatchGrid
from halovid.store.errors import InputError


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_relative_to_the_recipe_but_not_what_the_package_holds(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("good: {source: clips}\njudge: {questions: q.parquet}\n")
    config = load_config(recipe)
    assert config.good is not None and config.good.source == str(tmp_path / "clips")
    assert config.judge.questions == tmp_path / "q.parquet"
    for name in PACKAGED_SIZES:
        packaged = load_config(recipe, (f"good.source={name}",))
        assert packaged.good is not None and packaged.good.source == name


def test_a_packaged_generator_makes_clips_of_its_own_size_unless_the_recipe_says_another() -> None:
    for name, size in PACKAGED_SIZES.items():
        assert make_config({"generator": {"model": name}}).clip_size == size
    assert make_config({}).clip_size == make_config({"generator": {"model": "somebody/a-model"}}).clip_size
    assert make_config({"generator": {"model": "panorama", "height": 128}}).clip_size == (17, 128, 96)
    assert changed(make_config({}), {"generator": {"model": "panorama"}}).clip_size == (17, 96, 96)
    assert changed(make_config({"generator": {"model": "panorama"}}), {"generator": {"model": "world"}}) == changed(
        make_config({}), {"generator": {"model": "world"}}
    )


def test_a_size_that_can_not_follow_from_a_wrong_model_is_no_mistake_of_its_own() -> None:
    with pytest.raises(InputError) as caught:
        make_config({"generator": {"model": 5}})
    assert str(caught.value).startswith("generator.model: got 5. ")
    assert "num_frames" not in str(caught.value) and "factory" not in str(caught.value)


def test_an_empty_recipe_has_all_defaults(tmp_path: Path) -> None:
    config = load_config(recipe(tmp_path, "# nothing set\n"))
    assert config == RunConfig()
    assert config.grid == PatchGrid(4, 4, 4)


def test_every_setting_has_a_description() -> None:
    schema = RunConfig.model_json_schema()
    sections = {"RunConfig": schema} | schema["$defs"]
    settings = {
        f"{name}.{setting}": content
        for name, section in sections.items()
        for setting, content in section["properties"].items()
    }
    assert [name for name, content in settings.items() if not content.get("description")] == []


def test_values_arrive_in_their_sections(tmp_path: Path) -> None:
    text = """
        seed: 3
        grid: {t: 2, h: 3, w: 5}
        generate: {candidates: 7, prompts: {count: 11}}
        align:
          learning_rate: 1e-3
          objective: {beta_patch: 13, tie: 0.25}
          sigma: {scheme: uniform, lowest: 0.1}
          lora: {rank: 5, targets: [to_q, to_k]}
    """
    config = load_config(recipe(tmp_path, text))
    assert config.seed == 3
    assert config.grid == PatchGrid(2, 3, 5)
    assert (config.generate.candidates, config.generate.prompts.count) == (7, 11)
    assert config.align.learning_rate == 1e-3
    assert config.align.objective == GranDPOOptions(beta_patch=13, tie=0.25)
    assert (config.align.sigma.scheme, config.align.sigma.lowest, config.align.sigma.highest) == ("uniform", 0.1, 1)
    assert config.align.lora.targets == ("to_q", "to_k")


def test_a_configuration_does_not_change() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.align.steps = 1


@pytest.mark.parametrize(
    ("raw", "setting", "near", "also"),
    [
        ({"alihn": {}}, "alihn", "align", "evaluate"),
        ({"align": {"stesp": 3}}, "align.stesp", "steps", "learning_rate"),
        ({"align": {"objective": {"beta_pach": 3}}}, "align.objective.beta_pach", "beta_patch", "lambda_anchor"),
        ({"align": {"sigma": {"sheme": "x"}}}, "align.sigma.sheme", "scheme", "shift"),
        ({"align": {"lora": {"rnk": 3}}}, "align.lora.rnk", "rank", "targets"),
        ({"grid": {"t": 1, "h": 1, "w": 1, "hh": 2}}, "grid.hh", "h", "w"),
        ({"evaluate": {"prompts": {"splt": "train"}}}, "evaluate.prompts.splt", "split", "count"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    raw: dict[str, Any], setting: str, near: str, also: str
) -> None:
    with pytest.raises(InputError) as caught:
        make_config(raw)
    message = str(caught.value)
    assert f"unknown key '{setting}': did you mean '{near}'?" in message
    assert also in message.partition("allowed here: ")[2].split(", ")


@pytest.mark.parametrize(
    ("raw", "setting", "value"),
    [
        ({"align": {"steps": "many"}}, "align.steps", "'many'"),
        ({"align": {"steps": 2.5}}, "align.steps", "2.5"),
        ({"align": {"objective": {"beta_patch": -3}}}, "align.objective.beta_patch", "-3"),
        ({"align": {"objective": 3}}, "align.objective", "3"),
        ({"align": {"sigma": {"lowest": 0.9, "highest": 0.1}}}, "align.sigma", "lowest sigma 0.9"),
        ({"align": {"method": "loras"}}, "align.method", "'loras'"),
        ({"grid": {"t": 0, "h": 3, "w": 5}}, "grid", "(0, 3, 5)"),
        ({"grid": {"t": 2, "h": 3}}, "grid.w", "Field required"),
        ({"generate": 7}, "generate", "7"),
        ({"reward": {"aspects": ["beauty"]}}, "reward.aspects.0", "'beauty'"),
        ({"reward": {"aspects": ["text_alignment"]}}, "reward", "patch_aspects ['temporal_consistency'"),
        ({"reward": {"width": 96, "heads": 5}}, "reward", "multiple of heads 5"),
        ({"reward": {"backbone": "conv", "patch_size": 6}}, "reward", "patch_size 6 must be a power of two"),
        ({"seed": float("nan")}, "seed", "nan"),
        ({"align": {"learning_rate": float("inf")}}, "align.learning_rate", "inf"),
        ({"align": {"objective": {"beta_patch": float("inf")}}}, "align.objective.beta_patch", "inf"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(raw: dict[str, Any], setting: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        make_config(raw)
    assert str(caught.value).startswith(f"{setting}: got ")
    assert value in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        make_config({"seed": -1, "align": {"stesp": 3, "ema": 1}})
    message = str(caught.value)
    assert all(problem in message for problem in ("seed: got -1", "'align.stesp'", "align.ema: got 1"))


def test_overrides_reach_every_depth_and_win(tmp_path: Path) -> None:
    path = recipe(tmp_path, "seed: 1\nalign: {steps: 5, ema: 0.5}\n")
    overrides = (
        "seed=2",
        "align.steps=7",
        "align.objective.beta_patch=3e1",
        "grid={t: 2, h: 3, w: 5}",
        "report.title=a=b",
    )
    config = load_config(path, overrides)
    assert (config.seed, config.align.steps, config.align.ema) == (2, 7, 0.5)
    assert config.align.objective.beta_patch == 30
    assert config.grid == PatchGrid(2, 3, 5)
    assert config.report.title == "a=b"
    assert load_config(path, ("align.steps=7", "align.steps=9")).align.steps == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "takes section.key=value"),
        ("=3", "takes section.key=value"),
        ("seed.low=3", "'seed' is a value, not a section"),
        ("align.stesp=3", "unknown key 'align.stesp': did you mean 'steps'"),
        ("align.steps=few", "align.steps: got 'few'"),
        ("seed=[1", r"override 'seed=\[1'"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_config(recipe(tmp_path, "seed: 1\n"), (override,))


def test_a_section_without_entries_counts_as_left_out(tmp_path: Path) -> None:
    path = recipe(tmp_path, "seed: 1\nalign:\n")
    assert load_config(path).align == RunConfig().align
    assert load_config(path, ("align.steps=3",)).align.steps == 3
    path = recipe(tmp_path, "align:\n  objective:\n  ema: 0.5\nevaluate:\n  prompts:\n")
    assert load_config(path).align.objective == GranDPOOptions()
    assert load_config(path).align.ema == 0.5
    assert load_config(path).evaluate == RunConfig().evaluate
    assert load_config(path, ("align.objective.tie=0.5",)).align.objective.tie == 0.5
    with pytest.raises(InputError, match=r"align\.steps: got None"):
        load_config(recipe(tmp_path, "align:\n  steps:\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- seed\n- 3\n", "must be a mapping of sections, found list"),
        ("42\n", "must be a mapping of sections, found int"),
        ("align: {steps: [1\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_config(recipe(tmp_path, text))


def test_an_unreadable_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't read the recipe .*no\.yaml: No such file"):
        load_config(tmp_path / "no.yaml")
    (tmp_path / "recipe.yaml").write_bytes(b"seed: 1 # \xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_config(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="it is a folder or device"):
        load_config(tmp_path)


def test_prompt_files_are_taken_from_beside_the_recipe(tmp_path: Path) -> None:
    text = "generate: {prompts: {file: texts/a.txt}}\nevaluate: {prompts: {file: /elsewhere/b.txt}}\n"
    config = load_config(recipe(tmp_path, text))
    assert config.generate.prompts.file == tmp_path / "texts" / "a.txt"
    assert config.evaluate.prompts.file == Path("/elsewhere/b.txt")


def test_a_path_on_the_command_line_starts_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(
        tmp_path, "generate: {prompts: {file: a.txt}}\ngenerator: {model: mine}\nreward: {model: no/folder}\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "here" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(path, ("judge.questions=q.parquet", "evaluate.prompts={file: c.csv}", "score.released=mine"))
    assert config.generate.prompts.file == tmp_path / "a.txt"
    assert (config.judge.questions, config.evaluate.prompts.file) == (Path("q.parquet"), Path("c.csv"))
    assert config.generator.model == str(tmp_path / "mine"), "a folder beside the recipe"
    assert (config.reward.model, config.score.released) == ("no/folder", "mine"), "a name on the hub, one as typed"


def test_a_part_holds_the_named_sections_alone() -> None:
    first = make_config({"seed": 3, "align": {"steps": 5}})
    part = first.part("seed", "grid", "align")
    assert set(part) == {"seed", "grid", "align"}
    assert part["grid"] == {"t": 4, "h": 4, "w": 4}
    assert part["align"]["objective"]["beta_patch"] == first.align.objective.beta_patch
    assert make_config(part) == first


@pytest.mark.parametrize("setting", ["judge.questions", "judge.labels", "pair.preferences"])
def test_a_folder_in_place_of_a_file_is_refused(setting: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=rf"^{setting}: {tmp_path}/folder is a folder; name a file$"):
        load_config(tmp_path / "r.yaml", (f"{setting}={tmp_path}/folder",))


def test_an_objective_is_chosen_by_its_name() -> None:
    assert make_config({"align": {"objective": {"beta_clip": 3}}}).align.objective == GranDPOOptions(beta_clip=3)
    assert make_config({"align": {"objective": {"name": "nft", "beta": 0.5}}}).align.objective == NftOptions(beta=0.5)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "dpo"}, r"^align\.objective: got .*'gran_dpo', 'sft', 'nft'"),
        ({"name": "sft", "beta": 1}, r"^unknown key 'align\.objective\.beta'.*allowed here: name$"),
        ({"name": "nft", "beta": -1}, r"^align\.objective\.beta: got -1"),
        ({"lambda_clip": 0, "lambda_patch": 0, "lambda_anchor": 0}, r"^align\.objective: got .*every lambda_\* is 0"),
        ([1], r"^align\.objective: got \[1\]"),
    ],
)
def test_a_wrong_objective_is_explained(objective: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_config({"align": {"objective": objective}})


@pytest.mark.parametrize(
    ("align", "names"),
    [
        ({"loss": {}}, ("'align.loss' is now called 'align.objective'",)),
        (
            {"loss": {"beta_video": 3, "tie": 1}},
            ("'align.loss' is now called 'align.objective'", "'align.loss.beta_video' is now called", "beta_clip'"),
        ),
        ({"objective": {"lambda_video": 0}}, ("lambda_video' is now called 'align.objective.lambda_clip'",)),
        ({"loss": {"lambda_nft": 1}}, ("'align.loss.lambda_nft' is now called 'align.objective.name: nft'",)),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(align: dict[str, Any], names: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        make_config({"align": align})
    assert all(name in str(caught.value) for name in names)
    assert "tie" not in str(caught.value)


def test_another_objective_takes_none_of_the_options_of_the_one_before() -> None:
    config = make_config({"align": {"objective": {"beta_clip": 3}}})
    assert changed(config, {"align": {"objective": {"tie": 1}}}).align.objective == GranDPOOptions(beta_clip=3, tie=1)
    changes = ({"align": {"objective": {"name": "nft"}}}, {"align": {"objective": {"beta": 1}}})
    assert changed(config, *changes).align.objective == NftOptions(beta=1)


EXECUTION = (
    *("device=cpu", "threads=3", "generator.batch_size=1", "score.batch_size=1", "good.batch_size=1"),
    *("restore.batch_size=1", "align.micro_batches=2", "align.checkpoint_every=7", "align.gradient_checkpointing=true"),
    *("reward.gradient_checkpointing=true", "judge.vlm.concurrency=1", "judge.vlm.timeout=5", "judge.vlm.attempts=9"),
    *("judge.vlm.budget.calls=10", "judge.vlm.requests_per_minute=1", "judge.vlm.answers=/elsewhere"),
    *("judge.vlm.panel=[{model: a, key_variable: OTHER}]",),
)


def test_how_a_run_is_executed_is_no_part_of_what_its_results_depend_on(tmp_path: Path) -> None:
    text = "good: {per_prompt: 1}\nrestore: {per_prompt: 1}\njudge: {vlm: {panel: [{model: a}]}}\n"
    path = recipe(tmp_path, text)
    plain = result_settings(load_config(path))
    for override in EXECUTION:
        changed = load_config(path, (override,))
        assert changed != load_config(path), override
        assert result_settings(changed) == plain, override


@pytest.mark.parametrize("override", ["reward.batch_size=5", "align.batch_size=5", "generator.fps=9", "dtype=float16"])
def test_what_a_result_depends_on_is_told(tmp_path: Path, override: str) -> None:
    path = recipe(tmp_path, "")
    changed, plain = load_config(path, (override,)), load_config(path)
    section = override.partition(".")[0].partition("=")[0]
    assert changed.part("seed", section) != plain.part("seed", section)
    assert changed.part("seed").keys() == {"seed"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"align": {"steps": 10, "snapshots": [5, 20]}}, "align: .*snapshots has step 20.*ends after steps: 10"),
        ({"evaluate": {"step": 7}}, "evaluate.step is 7.*add it to align.snapshots"),
        ({"reward": {"downscale": 65}}, "reward.downscale is 65"),
        ({"reward": {"held_out": 0.9999}}, "reward.held_out: got 0.9999"),
        ({"generator": {"fps": 1e300}}, "generator.fps: got 1e\\+300"),
        ({"generator": {"height": 60}}, "generator.height: got 60.*multiple of 8"),
        ({"threads": 10**6}, "threads: got 1000000"),
        ({"seed": 2**63}, "seed: got 9223372036854775808"),
        ({"grid": {"t": 10**9, "h": 1, "w": 1}}, "at most 1024 parts"),
        ({"repair": {"regions": {"t": 1, "h": 5, "w": 2}}}, r"repair.regions \(1, 5, 2\) must not be finer than grid"),
        ({"evaluate": {"repair": {"regions": {"t": 9, "h": 1, "w": 1}}}}, r"evaluate.repair.regions \(9, 1, 1\)"),
        ({"pair": {"sources": ["repaired"]}}, "the recipe needs a section `repair` for it"),
        ({"restore": {"source": "repaired"}}, "the recipe needs a section `repair` for it"),
        ({"generator": {"num_frames": 1}, "pair": {"min_motion": 1}}, "leave it out for clips of a single frame"),
        ({"evaluate": {"generator": "base"}}, "which would be held against itself: set best_of or repair as well"),
        ({"score": {"trained": "a", "released": "b"}}, "trained and released name 2 reward models; keep one"),
    ],
)
def test_values_that_could_only_fail_later_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_config(raw)


def test_messages_stay_short(tmp_path: Path) -> None:
    many = {f"key{number}": "x" * 10_000 for number in range(500)}
    with pytest.raises(InputError, match="and 491 more") as caught:
        make_config({"seed": "y" * 10_000} | many)
    assert len(str(caught.value)) < 4000
    with pytest.raises(InputError) as caught:
        load_config(recipe(tmp_path, "seed: 1\n"), (f"seed.x={'z' * 10_000}",))
    assert len(str(caught.value)) < 300


def test_a_key_where_a_name_belongs_is_not_repeated() -> None:
    secret = "sk-4f9dNeverShowThis"
    with pytest.raises(InputError, match="not shown") as caught:
        make_config({"judge": {"vlm": {secret: None}}})
    assert secret not in str(caught.value)
