"""What holds for every family: its model predicts, noises, samples, decodes and adapts as its plain pipeline does.

Another family is tested by its builder in `tiny_pipelines.TINY`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import PeftAdapterMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.config.sections import LoraOptions
from halovid.models import FAMILIES, PARTS, DiffusionModel, Part, check_model, load_family, load_model
from halovid.models.restoring import remake
from halovid.records import Conditioning
from halovid.store.errors import InputError
from tiny_pipelines import TINY

PROMPTS = ["a small red circle moves left", "a large blue square stays and a tiny green triangle rises"]
NEGATIVE = "a plain red circle"
SEEDS = [3, 11]
STEPS = 4
LORA = LoraOptions(rank=2, alpha=2)


@pytest.fixture(scope="module", params=sorted(TINY))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of one family, on disk under its class's name."""
    path = tmp_path_factory.mktemp("pipelines") / request.param
    TINY[request.param].build().save_pretrained(path)
    return path


def config_of(folder: Path, **changes: Any) -> GeneratorConfig:
    frames, height, width = TINY[folder.name].size
    sampling = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "negative_prompt": NEGATIVE}
    size = {"num_frames": frames, "height": height, "width": width}
    return GeneratorConfig(model=str(folder), **sampling | size | changes)


def open_tiny(folder: Path, parts: tuple[Part, ...] = PARTS, **changes: Any) -> DiffusionModel:
    return load_model(config_of(folder, **changes), parts, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionModel:
    return open_tiny(folder)


@pytest.fixture(scope="module")
def conditioning(model: DiffusionModel) -> Conditioning:
    """Each prompt is encoded alone, as the stages do."""
    return Conditioning.cat([model.encode_prompts([prompt]) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def samples(model: DiffusionModel, conditioning: Conditioning) -> Tensor:
    return model.sample(conditioning, SEEDS)


def plain(folder: Path, adapter: Path | None = None, **changes: Any) -> Tensor:
    """Clips of the plain pipeline, called with the family's arguments: [B, F, H, W, 3] in 0..1."""
    pipe = getattr(diffusers, folder.name).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    family = load_family(folder.name, str(folder))
    if adapter is not None:
        for name in family.denoisers:
            make_loadable(getattr(pipe, name))
        pipe.load_lora_weights(adapter)
    config = config_of(folder, **changes)
    made = pipe(
        PROMPTS,
        negative_prompt=[config.negative_prompt] * len(PROMPTS),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
        return_dict=False,
        **family.call(config),
    )[0]
    clips = torch.as_tensor(made)
    return clips if clips.ndim == 5 else clips[:, None]  # pictures are clips of one frame


def make_loadable(network: torch.nn.Module) -> None:
    """Gives a network what `load_lora_weights` asks of it, where diffusers forgot (UNet3DConditionModel of 0.42)."""
    if not hasattr(network, "load_lora_adapter"):
        network.__class__ = type(type(network).__name__, (type(network), PeftAdapterMixin), {})


def pixels(video: Tensor) -> Tensor:
    """[B, 3, F, H, W] in -1..1 as a pipeline gives clips."""
    return video.permute(0, 2, 3, 4, 1) / 2 + 0.5


def test_every_family_is_tested() -> None:
    assert TINY.keys() == FAMILIES.keys()


def test_sampling_and_decoding_give_the_plain_pipelines_pixels(
    model: DiffusionModel, samples: Tensor, folder: Path
) -> None:
    torch.testing.assert_close(pixels(model.decode_video(samples)), plain(folder), rtol=1e-4, atol=1e-4)


def test_without_guidance_there_is_no_negative_prompt(folder: Path, conditioning: Conditioning) -> None:
    model = open_tiny(folder, guidance_scale=1.0)
    assert model.negative() is None
    found = pixels(model.decode_video(model.sample(conditioning, SEEDS)))
    torch.testing.assert_close(found, plain(folder, guidance_scale=1.0), rtol=1e-4, atol=1e-4)


def test_predict_is_what_the_denoiser_gives_at_every_step_of_sampling(
    model: DiffusionModel, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own calls of the network are recorded: with guidance, they are for both prompts in some order.

    Levels are those of the scheduler's steps, since some networks are told timesteps that are counted in another way.
    """
    since_step: list[tuple[Tensor, Tensor]] = []
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    [network], scheduler = model.denoisers.values(), model._pipe.scheduler
    scheduler_step = scheduler.step

    def note_call(_: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        since_step.append((named["hidden_states"] if "hidden_states" in named else args[0], output[0]))

    def note_step(output: Tensor, timestep: Tensor, *args: Any, **named: Any) -> Any:
        calls.extend((noisy, result, timestep) for noisy, result in since_step)
        since_step.clear()
        return scheduler_step(output, timestep, *args, **named)

    handle = network.register_forward_hook(note_call, with_kwargs=True)
    monkeypatch.setattr(scheduler, "step", note_step)
    shape = model.sample(conditioning, SEEDS).shape
    handle.remove()
    negative = model.negative()
    prompts = {"plain": conditioning} | ({} if negative is None else {"negative": negative.repeat(len(SEEDS))})
    seen = dict.fromkeys(prompts, 0)
    for noisy, output, timestep in calls:
        level = model.noise.level(timestep.expand(len(SEEDS)))
        for rows in range(0, len(noisy), len(SEEDS)):
            part = slice(rows, rows + len(SEEDS))
            inside, expected = (unpacked(model, value[part], shape) for value in (noisy, output))
            gaps = {}
            for name, texts in prompts.items():
                gaps[name] = (model.predict(inside, level, texts) - expected).abs().max().item()
            nearest = min(gaps, key=gaps.__getitem__)
            seen[nearest] += 1
            assert gaps[nearest] < 1e-4 * max(1.0, expected.abs().max().item())
    assert seen["plain"] >= STEPS, "a scheduler like PNDM calls the network once more than there are steps"
    assert set(seen.values()) == {seen["plain"]}


def unpacked(model: DiffusionModel, latents: Tensor, shape: torch.Size) -> Tensor:
    """Latents in the pipeline's own layout as [B, C, T, h, w]."""
    return model._family.unpack(model._pipe, latents, (shape[2], shape[3], shape[4]))


def test_guidance_is_that_of_sampling(model: DiffusionModel, conditioning: Conditioning, samples: Tensor) -> None:
    level, negative = torch.tensor([0.4, 0.9]), model.negative()
    expected = model.predict(samples, level, conditioning)
    if negative is not None:
        away = model.predict(samples, level, negative.repeat(2))
        expected = away + 3.0 * (expected - away)
    torch.testing.assert_close(model.predict_guided(samples, level, conditioning), expected)


def test_each_row_has_a_noise_level_of_its_own(
    model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    level = torch.tensor([0.2, 0.9])
    both = model.predict(samples, level, conditioning)
    for row in range(2):
        alone = model.predict(samples[row : row + 1], level[row : row + 1], conditioning.rows([row]))
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_noise_and_target_are_the_schedulers(model: DiffusionModel, samples: Tensor) -> None:
    scheduler, noise = model._pipe.scheduler, torch.randn_like(samples)
    shift = {"mu": 0.7} if scheduler.config.get("use_dynamic_shifting") else {}  # any, as clips of some size need it
    scheduler.set_timesteps(STEPS, **shift)
    for index, timestep in enumerate(scheduler.timesteps):
        if model.noise.kind == "flow":  # its timesteps may be rounded; its sigmas are not
            level = scheduler.sigmas[index].expand(len(samples)).float()
            target = noise - samples
        else:
            level = model.noise.level(timestep.expand(len(samples)))
            velocity = getattr(scheduler, "get_velocity", None)
            target = {
                "v_prediction": velocity and velocity(samples, noise, timestep.expand(len(samples))),
                "epsilon": noise,
                "sample": samples,
            }[model.noise.kind]
        if hasattr(scheduler, "add_noise"):
            noisy = scheduler.add_noise(samples, noise, timestep.expand(len(samples)))
        else:
            noisy = scheduler.scale_noise(samples, timestep.expand(len(samples)), noise)
        torch.testing.assert_close(model.noise.noisy(samples, noise, level), noisy, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.noise.target(samples, noise, level), target, rtol=1e-4, atol=1e-4)


def test_a_clip_is_a_function_of_its_own_seed_whatever_it_is_batched_with(
    model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    for row, seed in enumerate(SEEDS):
        alone = model.sample(conditioning.rows([row]), [seed])
        torch.testing.assert_close(alone, samples[row : row + 1], rtol=1e-4, atol=1e-4)
        decoded = model.decode_video(samples)[row : row + 1]
        torch.testing.assert_close(model.decode_video(alone), decoded, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model.sample(conditioning, [3, 12])[1], samples[1], atol=1e-3)


def test_latents_have_the_shape_of_the_geometry(model: DiffusionModel, samples: Tensor, folder: Path) -> None:
    size = TINY[folder.name].size
    assert tuple(samples.shape[2:]) == model.geometry.latent_shape(*size)
    video = model.decode_video(samples)
    assert tuple(video.shape) == (len(SEEDS), 3, *size)
    assert model.encode_video(video).shape == samples.shape


def test_encoding_is_the_inverse_of_the_pipelines_scaling(model: DiffusionModel, samples: Tensor) -> None:
    """An autoencoder's own latents, scaled by `encode_video`, are what `decode_video` scales back."""
    video = model.decode_video(samples)
    autoencoder = model._autoencoder()
    seen: list[Tensor] = []
    decode = autoencoder.decode
    autoencoder.decode = lambda latents, *rest, **named: (seen.append(latents), decode(latents, *rest, **named))[1]
    model.decode_video(model.encode_video(video))
    autoencoder.decode = decode
    frames = video.transpose(1, 2).flatten(0, 1) if seen[0].ndim == 4 else video
    with torch.no_grad():
        expected = autoencoder.encode(frames).latent_dist.mode()
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 1.0])
def test_restoring_with_a_perfect_denoiser_gives_the_clip_back(
    sigma: float, model: DiffusionModel, conditioning: Conditioning, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, noise = samples.double(), torch.randn(samples.shape, dtype=torch.float64)
    monkeypatch.setattr(model, "predict", lambda noisy, level, texts: model.noise.target(latents, noise, level))
    everywhere = torch.ones(len(latents), *latents.shape[2:])
    remade = remake(model, latents, everywhere, conditioning, noise, sigma=sigma, steps=5)
    torch.testing.assert_close(remade, latents, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
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


def test_an_adapter_that_is_switched_off_changes_nothing(
    trained: tuple[DiffusionModel, Path], model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    level = torch.tensor([0.3, 0.7])
    with torch.no_grad():
        before = model.predict(samples, level, conditioning)
        with trained[0].without_lora():
            torch.testing.assert_close(trained[0].predict(samples, level, conditioning), before)
        assert not torch.allclose(trained[0].predict(samples, level, conditioning), before, atol=1e-3)


def test_the_plain_pipeline_loads_the_adapter_and_samples_the_same(
    trained: tuple[DiffusionModel, Path], folder: Path, samples: Tensor, conditioning: Conditioning
) -> None:
    aligned = pixels(trained[0].decode_video(trained[0].sample(conditioning, SEEDS)))
    base = pixels(trained[0].decode_video(samples))
    assert (aligned - base).abs().max() > 1e-2, "the adapter changed nothing that could be compared"
    torch.testing.assert_close(plain(folder, trained[1]), aligned, rtol=1e-3, atol=1e-3)
    again = open_tiny(folder)
    again.load_weights(trained[1])
    torch.testing.assert_close(
        pixels(again.decode_video(again.sample(conditioning, SEEDS))), aligned, rtol=0, atol=1e-5
    )


def test_the_merged_pipeline_samples_the_same(
    trained: tuple[DiffusionModel, Path], folder: Path, conditioning: Conditioning, tmp_path: Path
) -> None:
    aligned = pixels(trained[0].decode_video(trained[0].sample(conditioning, SEEDS)))
    again = open_tiny(folder)
    again.load_weights(trained[1])
    again.save_merged(tmp_path / folder.name)
    torch.testing.assert_close(plain(tmp_path / folder.name), aligned, rtol=1e-3, atol=1e-3)
    assert not list(tmp_path.rglob("*lora*"))


def test_a_model_that_starts_from_trained_weights_is_that_model_and_can_be_trained_on(
    trained: tuple[DiffusionModel, Path], folder: Path, conditioning: Conditioning, samples: Tensor
) -> None:
    started, level = open_tiny(folder, weights=trained[1]), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        expected = trained[0].predict(samples, level, conditioning)
        torch.testing.assert_close(started.predict(samples, level, conditioning), expected, rtol=1e-4, atol=1e-4)
        started.add_lora(LORA)
        with started.without_lora():
            torch.testing.assert_close(started.predict(samples, level, conditioning), expected, rtol=1e-4, atol=1e-4)


def test_whole_weights_go_out_and_back(folder: Path, tmp_path: Path, samples: Tensor) -> None:
    changed, other = open_tiny(folder, ("denoiser", "text")), open_tiny(folder, ("denoiser", "text"))
    [network] = changed.denoisers.values()
    for value in network.parameters():
        value.data += 0.1
    changed.save_weights(tmp_path)
    other.load_weights(tmp_path)
    [copied] = other.denoisers.values()
    for name, value in network.state_dict().items():
        assert torch.equal(value, copied.state_dict()[name]), name


def test_blocks_hold_most_of_the_denoiser(model: DiffusionModel) -> None:
    def count(modules: list[torch.nn.Module]) -> int:
        return sum(value.numel() for module in modules for value in module.parameters())

    assert len(model.blocks()) >= 2
    assert count(model.blocks()) > 0.3 * count(list(model.denoisers.values()))


def test_conditionings_survive_the_disk(conditioning: Conditioning, model: DiffusionModel, tmp_path: Path) -> None:
    for row in range(2):
        conditioning.rows([row]).save(tmp_path / f"{row}.safetensors")
    loaded = Conditioning.cat([Conditioning.load(tmp_path / f"{row}.safetensors") for row in range(2)])
    assert loaded.tensors.keys() == conditioning.tensors.keys()
    for name, value in conditioning.tensors.items():
        assert torch.equal(loaded.tensors[name], value)
    states = loaded.text_states()
    assert states.shape[0] == 2 and states.ndim == 3 and states.dtype == torch.float32


USES: dict[Part, Callable[[DiffusionModel, Conditioning, Tensor], Any]] = {
    "text": lambda model, texts, latents: model.encode_prompts(["a"]).tensors,
    "autoencoder": lambda model, texts, latents: model.decode_video(latents),
    "denoiser": lambda model, texts, latents: model.predict(latents, torch.tensor([0.5, 0.5]), texts),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_does_alone_what_it_does_beside_the_others_and_says_when_it_is_not_there(
    part: Part, folder: Path, model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    alone = open_tiny(folder, (part,))
    expected = USES[part](model, conditioning, samples)
    torch.testing.assert_close(USES[part](alone, conditioning, samples), expected)
    for other in PARTS:
        if other != part:
            with pytest.raises(RuntimeError, match=f"this needs its {other}"):
                USES[other](alone, conditioning, samples)


def test_a_model_without_text_encoders_samples_with_what_they_made(
    folder: Path, model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    config = config_of(folder)
    parts: tuple[Part, ...] = ("denoiser", "autoencoder")
    again = load_model(config, parts, torch.device("cpu"), torch.float32, model.negative())
    assert torch.equal(again.sample(conditioning, SEEDS), samples)


@pytest.mark.parametrize("component", ["text_encoder", "vae", "denoiser"])
@pytest.mark.parametrize("damage", ["lacks", "has"])
def test_weights_that_are_missing_or_left_over_are_named(
    component: str, damage: str, folder: Path, model: DiffusionModel, tmp_path: Path
) -> None:
    name = next(iter(model.denoisers)) if component == "denoiser" else component
    broken = copytree(folder, tmp_path / folder.name)
    [file] = (broken / name).glob("*.safetensors")
    tensors = load_file(file)
    key = max((key for key in tensors if key.endswith("weight")), key=len)
    if damage == "lacks":
        del tensors[key]
    else:
        key = "left.over.weight"
        tensors[key] = torch.zeros(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{name} {damage} 1 weights.*{key.split('.')[-2]}"):
        open_tiny(broken)


@pytest.mark.parametrize("damage", ["cut", "text", "pickle only", "no settings", "index"])
def test_a_damaged_pipeline_is_one_sentence(damage: str, folder: Path, tmp_path: Path) -> None:
    broken = copytree(folder, tmp_path / folder.name)
    [weights] = (broken / "vae").glob("*.safetensors")
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "text":
        weights.write_text("no weights")
    elif damage == "pickle only":
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    elif damage == "no settings":
        (broken / "vae" / "config.json").write_text("{")
    else:
        (broken / "model_index.json").write_text("[]")
    with pytest.raises(InputError, match="can't be read") as raised:
        open_tiny(broken)
    assert "\n" not in str(raised.value)


def test_sides_and_lengths_that_the_model_cannot_make_are_refused_with_the_rule(
    folder: Path, model: DiffusionModel
) -> None:
    family, geometry = model._family, model.geometry
    side = geometry.spatial_stride * family.side_multiple
    if side > 8:  # recipes allow multiples of 8
        with pytest.raises(InputError, match=f"both must be multiples of {side} "):
            check_model(config_of(folder, height=side + 8))
    check_model(config_of(folder, height=2 * side, width=side))
    if family.frame_multiple > 1:
        frames = geometry.temporal_stride + int(geometry.causal_first_frame)
        with pytest.raises(InputError, match="needs "):
            check_model(config_of(folder, num_frames=frames))


def test_damaged_adapters_are_one_sentence(trained: tuple[DiffusionModel, Path], folder: Path, tmp_path: Path) -> None:
    [file] = trained[1].glob("*.safetensors")
    whole = file.read_bytes()
    for content in (b"", whole[:-7], whole[:20], b"{}" * 40):
        (tmp_path / file.name).write_bytes(content)
        with pytest.raises(InputError, match="no undamaged adapter of this model"):
            open_tiny(folder, ("denoiser",)).load_weights(tmp_path)
