"""The command line of the trainings: every command is of a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from halovid.world.critic import WEIGHTS
from halovid.world_training import __main__ as command
from halovid.world_training.plans import PLANS

COMMANDS = ("clips", "vae", "latents", "decoder", "text", "generator", "pipeline", "critic", "figures", "all")
NEED_NO_FOLDER = ("critic", "figures")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command.app, arguments)


class Calls:
    """What the trainings were called with, by their names: none of them is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        for module, name in (
            *((command.clips, "render_shards"), (command.vae, "train_vae"), (command.generator, "encode_shards")),
            *((command.decoder, "train_decoder"), (command.text, "train_text_encoder")),
            *((command.generator, "train_generator"), (command.package, "write_pipeline"), (command.record, "record")),
            *((command.critic, "train_critic"), (command.figures, "measure"), (command.package, "load_vae")),
            *((command.package, "load_text_to_latents"), (command.vae, "use_channels_last")),
            *((command, "load_model"), (command, "write_json")),
        ):
            monkeypatch.setattr(module, name, self._noted(name))

    def _noted(self, name: str) -> Any:
        return lambda *arguments: self.made.append((name, arguments))

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        [arguments] = [arguments for made, arguments in self.made if made == name]
        return arguments


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(command.torch, "set_num_threads", lambda count: None)
    return Calls(monkeypatch)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_world_and_an_unknown_one_is_one_error(name: str, calls: Calls, tmp_path: Path) -> None:
    folder = () if name in NEED_NO_FOLDER else (str(tmp_path),)
    for world in PLANS:
        assert run(name, *folder, "--world", world).exit_code == 0
    made = len(calls.made)
    outcome = run(name, *folder, "--world", "moon")
    assert outcome.exit_code == 2
    words = " ".join(outcome.output.replace("│", "").split())  # typer draws a box around an error
    assert "Invalid value for '--world': there is no world 'moon'; the worlds are plain, panorama" in words
    assert "Traceback" not in outcome.output and len(calls.made) == made


def test_all_commands_are_known() -> None:
    assert {info.name for info in command.app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("world", [None, *PLANS])
def test_what_is_trained_is_of_the_world(world: str | None, calls: Calls, tmp_path: Path) -> None:
    option, plan = (("--world", world) if world else ()), PLANS[world or "plain"]
    for name in ("clips", "vae", "generator", "pipeline"):
        assert run(name, str(tmp_path), *option).exit_code == 0
    for name in NEED_NO_FOLDER:
        assert run(name, *option).exit_code == 0
    assert calls["render_shards"] == (plan, tmp_path / "clips", range(40))
    assert calls["train_vae"] == (plan, tmp_path / "clips", tmp_path)
    assert calls["train_generator"] == (plan, tmp_path / "clips", tmp_path)
    assert calls["write_pipeline"][-1] == plan.pipeline
    assert calls["record"] == (tmp_path, plan.record)
    assert calls["train_critic"][0] == plan and calls["train_critic"][2] == WEIGHTS[plan.world.name]
    assert calls["load_model"][0] == plan.generator_config()
    assert calls["measure"] == (plan, 96, None)
    assert [path for name, (path, *_) in calls.made if name == "write_json"] == [
        plan.record / "critic.json",
        plan.record / "figures.json",
    ]


def test_the_steps_of_a_transformer_may_be_others_than_the_plan_s(calls: Calls, tmp_path: Path) -> None:
    assert run("generator", str(tmp_path), "--world", "panorama", "--steps", "70").exit_code == 0
    plan = calls["train_generator"][0]
    assert plan.schedule.num_steps == 70 and plan.schedule.rate == PLANS["panorama"].schedule.rate
    assert plan.world is PLANS["panorama"].world and PLANS["panorama"].schedule.num_steps != 70
    assert run("generator", str(tmp_path), "--steps", "0").exit_code == 2


def test_a_pipeline_of_another_folder_is_not_recorded(calls: Calls, tmp_path: Path) -> None:
    assert run("pipeline", str(tmp_path), "--folder", str(tmp_path / "mine")).exit_code == 0
    assert calls["write_pipeline"][-1] == tmp_path / "mine"
    assert "record" not in [name for name, _ in calls.made]


def test_a_generator_that_starts_from_another_trains_no_text_encoder_and_says_so(calls: Calls, tmp_path: Path) -> None:
    assert run("text", str(tmp_path)).exit_code == 0
    assert calls["train_text_encoder"] == (tmp_path,)
    for name in ("text", "all"):
        assert run(name, str(tmp_path), "--world", "panorama").exit_code == 0
    assert [name for name, _ in calls.made].count("train_text_encoder") == 1


def test_a_text_encoder_that_is_not_needed_is_told(calls: Calls, tmp_path: Path, capsys: Any) -> None:
    command.train_text_encoder(tmp_path, "panorama")
    assert "text: nothing to do" in " ".join(capsys.readouterr().err.split())
    assert not calls.made


def test_all_of_them_are_done_in_order(calls: Calls, tmp_path: Path) -> None:
    assert run("all", str(tmp_path)).exit_code == 0
    names = [name for name, _ in calls.made if name not in ("load_vae", "load_text_to_latents", "load_model")]
    assert [name for name in names if name not in ("use_channels_last", "write_json")] == [
        *("render_shards", "train_vae", "encode_shards", "train_decoder", "train_text_encoder", "train_generator"),
        *("write_pipeline", "record", "train_critic", "measure"),
    ]
