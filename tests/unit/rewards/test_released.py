"""Released reward models, from folders that the tests lay out as they are published."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from halovid.config.reward import RewardConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.rewards.backbones import make_spec
from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from halovid.rewards.readers.text import fill
from halovid.rewards.released import find_family, load_released
from halovid.rewards.released.qwen_frames import CHAT, choose_by_rate, frame_size
from halovid.rewards.released.videoreward import QUESTION as THREE_QUESTIONS
from halovid.rewards.released.videoreward import TOKENS
from halovid.rewards.released.videoscore import ASPECTS, QUESTION
from halovid.rewards.scoring import score_dense
from halovid.store.errors import InputError
from tiny_models import (
    CONSTANTS,
    IDEFICS_TOKENS,
    QWEN_TOKENS,
    WIDTH,
    idefics2_config,
    make_head,
    make_tokenizer,
    old_qwen_config,
    old_qwen_names,
    qwen_config,
    shake,
    write_language_model,
    write_videoreward,
)

PROMPT = "a red ball"
GRID = PatchGrid(3, 3, 4)


def make_video(frames: int = 6, height: int = 30, width: int = 40) -> Tensor:
    pixels = torch.randint(0, 256, (3, frames, height, width), generator=torch.Generator().manual_seed(3))
    return pixels / 127.5 - 1


def write_config(folder: Path, config: transformers.PreTrainedConfig, architecture: str, **more: object) -> None:
    """config.json as the authors' classes wrote it."""
    value = config.to_dict() | {"architectures": [architecture], "problem_type": "regression"}
    value["id2label"] = {str(i): f"LABEL_{i}" for i in range(5)}
    (folder / "config.json").write_text(json.dumps(value | more))


@pytest.fixture(scope="session")
def videoscore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VideoScore: `model.*` and a head with bias, in two files with an index."""
    folder = tmp_path_factory.mktemp("hub") / "VideoScore"
    folder.mkdir()
    config = idefics2_config("idefics2")
    model = transformers.Idefics2Model(config)
    shake(model)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {"score.weight": make_head(5), "score.bias": torch.arange(5.0)}
    names = sorted(state)
    files = {name: f"model-0000{1 + (i > 20)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: state[name].contiguous() for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    write_config(folder, config, "Idefics2ForSequenceClassification")
    settings = {"do_image_splitting": False, "size": {"shortest_edge": 28, "longest_edge": 56}}
    settings |= {"image_processor_type": "Idefics2ImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    make_tokenizer(IDEFICS_TOKENS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def videoscore_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VideoScore-Qwen2-VL: `visual.*`, `model.*` and a head with bias."""
    folder = tmp_path_factory.mktemp("hub") / "VideoScore-Qwen2-VL"
    folder.mkdir()
    model = transformers.Qwen2VLModel(qwen_config("qwen2_vl"))
    shake(model)
    state = old_qwen_names(model.state_dict()) | {"score.weight": make_head(5), "score.bias": torch.arange(5.0)}
    save_file({n: v.contiguous() for n, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = old_qwen_config() | {"architectures": ["Qwen2VLForSequenceClassification"], "problem_type": "regression"}
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(5)}
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer(QWEN_TOKENS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["whole", "pair"])
def videoreward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videoreward(tmp_path_factory.mktemp("hub") / "VideoReward", request.param, 3)


def test_families_are_known_by_their_files(
    videoscore: Path, videoscore_qwen: Path, videoreward: Path, tmp_path: Path
) -> None:
    found = [find_family(folder) for folder in (videoscore, videoscore_qwen, videoreward)]
    assert found == ["videoscore", "videoscore-qwen2-vl", "videoreward"]
    plain = write_language_model("idefics2", tmp_path / "plain")
    assert find_family(plain) is None
    assert find_family(tmp_path) is None
    with pytest.raises(InputError, match="is no released reward model"):
        load_released(str(plain))


def test_videoscore_gives_what_its_own_classes_give(videoscore: Path) -> None:
    """The reference: transformers' processor and model, and the head at the last token."""
    video = make_video(5, 28, 42)
    score = load_released(str(videoscore)).score(video, 8.0, PROMPT)
    images = [Image.fromarray(((f + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for f in video.unbind(1)]
    settings = json.loads((videoscore / "preprocessor_config.json").read_text())
    processor = transformers.Idefics2Processor(
        transformers.Idefics2ImageProcessorPil(size=settings["size"], do_image_splitting=False),
        make_tokenizer(IDEFICS_TOKENS),
        image_seq_len=4,
    )
    inputs = processor(text=fill(QUESTION, prompt=PROMPT) + "<image> " * 5, images=images, return_tensors="pt")
    model = transformers.Idefics2Model.from_pretrained(videoscore).eval()
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[0, -1]
    expected = make_head(5) @ hidden + torch.arange(5.0)
    torch.testing.assert_close(torch.tensor(list(score.scores.values())), expected, atol=1e-4, rtol=1e-4)
    assert tuple(score.scores) == ASPECTS
    assert score.overall == pytest.approx(expected.mean().item(), abs=1e-4)
    assert score.frames == (0, 1, 2, 3, 4) and score.fps == 8
    assert "at most 16 frames" in score.policy and "question of halovid " in score.policy


@pytest.mark.parametrize(("name", "most"), [("VideoScore", 16), ("VideoScore-v1.1", 48)])
@pytest.mark.parametrize("count", [7, 16, 49, 100])
def test_videoscore_takes_frames_as_its_script_does(
    videoscore: Path, tmp_path: Path, name: str, most: int, count: int
) -> None:
    folder = tmp_path / name
    folder.symlink_to(videoscore)
    expected = np.arange(0, count, count / most).astype(int) if count > most else np.arange(count)
    assert load_released(str(folder)).choose_frames(count, 8.0) == expected.tolist()


def by_hand(model: Any, text: str, tokenizer: Any, frames: Tensor) -> Tensor:
    """Hidden states of a text whose visual part stands for frames [n, 3, H, W] of bytes, by transformers alone."""
    processor = transformers.Qwen2VLImageProcessorPil(do_resize=False, temporal_patch_size=2)
    pixels, grid = [], []
    for frame in frames:  # a picture is shown as two equal frames: two pictures give the halves of a pair
        picture = processor(Image.fromarray(frame.permute(1, 2, 0).numpy()), return_tensors="pt")
        pixels.append(picture["pixel_values"].unflatten(1, (3, 2, 14, 14))[:, :, 0])
        grid.append(picture["image_grid_thw"][0])
    pairs = [torch.stack(pair, 2).flatten(1) for pair in zip(pixels[::2], pixels[1::2], strict=True)]
    size = torch.tensor([[len(pairs), *grid[0][1:].tolist()]])
    ids = tokenizer(text, return_tensors="pt").input_ids
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    with torch.no_grad():
        output = model(input_ids=ids, position_ids=positions, pixel_values_videos=torch.cat(pairs), video_grid_thw=size)
    return output.last_hidden_state[0], ids[0]  # type: ignore[return-value]


def resized(video: Tensor, chosen: list[int], size: tuple[int, int]) -> Tensor:
    frames = ((video[:, chosen] + 1) * 127.5).round().byte().transpose(0, 1)
    return torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)


def visual(size: tuple[int, int], frames: int) -> str:
    return "<|vision_start|>" + "<|video_pad|>" * (frames // 2 * size[0] * size[1] // 28**2) + "<|vision_end|>"


def test_videoscore_on_qwen_gives_what_its_parts_give(videoscore_qwen: Path) -> None:
    video = make_video(9)
    score = load_released(str(videoscore_qwen)).score(video, 16.0, PROMPT)
    assert score.frames == (0, 3, 5, 8)  # 9 frames at 16 a second are 4.5 at 8, an even number of them
    frames = resized(video, list(score.frames), (280, 392))
    text = fill(CHAT, video=visual((280, 392), 4), question=fill(QUESTION, prompt=PROMPT))
    model = transformers.Qwen2VLModel.from_pretrained(videoscore_qwen).eval()
    hidden, _ = by_hand(model, text, make_tokenizer(QWEN_TOKENS), frames)
    expected = make_head(5) @ hidden[-1] + torch.arange(5.0)
    torch.testing.assert_close(torch.tensor(list(score.scores.values())), expected, atol=1e-3, rtol=1e-3)


def test_videoreward_gives_what_its_parts_give(videoreward: Path) -> None:
    """Adapters put on with peft itself, heads at their own tokens, normalised."""
    from peft import LoraConfig, inject_adapter_in_model

    video = make_video(9)
    score = load_released(str(videoreward)).score(video, 4.0, PROMPT)
    tokenizer = make_tokenizer(QWEN_TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": [*QWEN_TOKENS, *TOKENS]})
    model = transformers.Qwen2VLModel.from_pretrained(videoreward / "base")
    model.resize_token_embeddings(len(tokenizer))
    checkpoint = videoreward / "checkpoint-11352"
    if (checkpoint / "model.pth").exists():
        state = torch.load(checkpoint / "model.pth", weights_only=True)
    else:
        state = torch.load(checkpoint / "non_lora_state_dict.pth", weights_only=True)
        state |= load_file(checkpoint / "adapter_model.safetensors")
    targets = r"language_model.*\.(q|k|v|o|gate|up|down)_proj"
    adapted = inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=targets), model)
    own = adapted.state_dict()
    for name in own:
        old = "base_model.model." + name.replace("language_model.", "model.")
        for choice in (old, old.replace(".base_layer", ""), old.replace(".default", "")):
            if choice in state:
                own[name] = state[choice]
    adapted.load_state_dict(own)
    frames = resized(video, list(score.frames), frame_size(make_frames(score.frames), 28, 448 * 448))
    text = fill(
        CHAT, video=visual(tuple(frames.shape[-2:]), len(frames)), question=fill(THREE_QUESTIONS, prompt=PROMPT)
    )
    hidden, ids = by_hand(adapted.eval(), text, tokenizer, frames)
    head = make_head(3)
    for row, (name, token) in enumerate(zip(("VQ", "MQ", "TA"), TOKENS, strict=True)):
        at = (ids == tokenizer.convert_tokens_to_ids(token)).nonzero()
        assert len(at) == 1
        raw = (head[row] @ hidden[at[0, 0]]).item()
        assert score.scores[name] == pytest.approx(
            (raw - CONSTANTS[f"{name}_mean"]) / CONSTANTS[f"{name}_std"], abs=2e-3
        )
    assert score.overall == pytest.approx(sum(score.scores.values()), abs=1e-5)
    assert score.policy.startswith("2 frames a second") and "; normalised;" in score.policy


def make_frames(chosen: tuple[int, ...]) -> Tensor:
    return torch.zeros(len(chosen), 3, 30, 40)


def test_videoreward_with_one_output_reads_it_at_all_three_tokens(tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "one", "whole", 1)
    score = load_released(str(folder)).score(make_video(), 8.0, PROMPT)
    assert len(score.scores) == 3 and all(map(math.isfinite, score.scores.values()))


@pytest.mark.parametrize(
    ("count", "fps", "wanted", "expected"),
    [
        (81, 16.0, 2.0, 10),  # 5 s at 2 a second
        (81, 16.0, 8.0, 40),
        (16, 8.0, 2.0, 4),
        (9, 8.0, 2.0, 4),  # never fewer than 4
        (3, 8.0, 2.0, 2),  # but an even number, of what there is
        (1, 8.0, 2.0, 2),
    ],
)
def test_frames_by_rate(count: int, fps: float, wanted: float, expected: int) -> None:
    chosen = choose_by_rate(count, fps, wanted)
    assert len(chosen) == expected and chosen[0] == 0 and chosen[-1] == count - 1
    assert chosen == sorted(chosen)


def test_the_words_of_the_authors_are_taken_from_the_folder(videoscore: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videoscore, tmp_path / "VideoScore")
    before = load_released(str(folder)).score(make_video(), 8.0, PROMPT)
    (folder / "prompt.txt").write_text('Rate "{text_prompt}":\n')
    after = load_released(str(folder)).score(make_video(), 8.0, PROMPT)
    assert after.scores != before.scores
    assert "question prompt.txt " in after.policy
    (folder / "prompt.txt").write_text("Rate it.")
    with pytest.raises(InputError, match=r"prompt.txt must hold \{prompt\} once each"):
        load_released(str(folder))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the state of a folder with one or several safetensors files, or a model.pth."""
    if (pickled := folder / "checkpoint-11352" / "model.pth").exists():
        state = torch.load(pickled, weights_only=True)
        change(state)
        torch.save(state, pickled)
        return
    state = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    change(state)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("score.bias"), r"1 missing \(score.bias\)"),
        (
            lambda s: s.pop("model.text_model.norm.weight"),
            r"1 missing \(text_model.norm.weight\)|missing \(.*norm.weight",
        ),
        (lambda s: s.update({"model.extra": torch.ones(1)}), r"1 unexpected \(.*extra\)"),
        (lambda s: s.update({"score.weight": torch.ones(3, WIDTH)}), r"the head in .* is \(3, 24\)"),
        (lambda s: s.update({"model.text_model.norm.weight": torch.ones(7)}), r"can't be loaded|misshapen"),
    ],
    ids=["no bias", "missing", "unexpected", "head", "shape"],
)
def test_weights_of_videoscore_must_fit_exactly(
    videoscore: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    folder = shutil.copytree(videoscore, tmp_path / "VideoScore")
    change_weights(folder, change)
    with pytest.raises(InputError, match=message):
        load_released(str(folder))


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("base_model.model.rm_head.weight"), r"rm_head.weight is missing; it must be \(3, 24\)"),
        (lambda s: s.update({"base_model.model.rm_head.weight": torch.ones(2, WIDTH)}), r"rm_head.weight is \(2, 24\)"),
        (lambda s: s.pop("base_model.model.model.norm.weight"), r"1 missing \(language_model.norm.weight\)"),
        (lambda s: s.update({"base_model.model.model.extra": torch.ones(1)}), r"1 unexpected \(language_model.extra\)"),
        (lambda s: s.pop(f"{LAYER}.lora_A.default.weight"), r"the LoRA pair of .*q_proj does not fit"),
        (lambda s: s.update({f"{LAYER}.lora_A.default.weight": torch.ones(2, WIDTH)}), r"A and B of rank 4"),
        (lambda s: s.pop(f"{LAYER}.base_layer.weight"), r"the LoRA pair of .*q_proj does not fit"),
        (
            lambda s: s.update({"base_model.model.model.embed_tokens.weight": torch.ones(99, WIDTH)}),
            r"1 misshapen \(language_model.embed_tokens.weight \(99, 24\)",
        ),
    ],
)
def test_weights_of_videoreward_must_fit_exactly(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    change_weights(folder, change)
    with pytest.raises(InputError, match=message):
        load_released(str(folder))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model_config", "reward_token", "last", "model_config.reward_token is 'last'"),
        ("model_config", "output_dim", 2, "model_config.output_dim is 2"),
        ("model_config", "model_name_or_path", None, "model_config.model_name_or_path is None"),
        ("model_config", "model_name_or_path", "nowhere/atall", "neither a folder nor a model"),
        ("data_config", "sample_type", "multi_pts", "sample_type is 'multi_pts'"),
        ("data_config", "fps", 0, "data_config.fps is 0"),
        ("data_config", "num_frames", -3, "data_config.num_frames is -3"),
        ("data_config", "max_frame_pixels", 10, "data_config.max_frame_pixels is 10"),
        ("peft_lora_config", "lora_r", 0, "peft_lora_config.lora_r is 0"),
        ("peft_lora_config", "lora_alpha", None, "peft_lora_config.lora_alpha is None"),
        ("inference_config", "MQ_std", 0.0, "inference_config.MQ_std is 0.0"),
        ("inference_config", "MQ_mean", math.nan, "inference_config.MQ_mean is nan"),
        ("inference_config", "MQ_std", None, "inference_config.MQ_std is None"),
    ],
)
def test_other_settings_of_videoreward_are_refused(
    tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    rewrite(folder / "model_config.json", lambda config: config[section].update({key: value}))
    with pytest.raises(InputError, match=message):
        load_released(str(folder))


@pytest.mark.parametrize("value", [None, [], {"data_config": None}, {"model_config": []}, {"inference_config": [1]}])
def test_settings_of_videoreward_that_are_no_settings_are_refused(tmp_path: Path, value: Any) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    path = folder / "model_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | value if isinstance(value, dict) and value else value))
    with pytest.raises(InputError, match=r"model_config.json (is not as released|must hold a JSON object)"):
        load_released(str(folder))


def test_settings_of_videoreward_may_be_null_where_the_authors_have_it_so(tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    before = load_released(str(folder)).score(make_video(), 8.0, PROMPT)
    rewrite(folder / "model_config.json", lambda c: c["data_config"].update(fps=None, num_frames=4))
    rewrite(folder / "model_config.json", lambda c: c.update(inference_config=None))
    plain = load_released(str(folder))
    score = plain.score(make_video(), 8.0, PROMPT)
    assert score.policy.startswith("4 frames,") and "; not normalised;" in score.policy
    for name, value in before.scores.items():
        raw = value * CONSTANTS[f"{name}_std"] + CONSTANTS[f"{name}_mean"]
        assert score.scores[name] == pytest.approx(raw, abs=1e-4)


def test_the_base_of_videoreward_must_be_of_its_kind(videoscore: Path, tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    shutil.copy(videoscore / "config.json", folder / "base" / "config.json")
    with pytest.raises(InputError, match="is a 'idefics2' model; qwen2_vl is needed here"):
        load_released(str(folder))


def test_a_latest_checkpoint_that_is_empty_is_told(tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    (folder / "checkpoint-99999").mkdir()
    with pytest.raises(InputError, match=r"checkpoint-99999 holds neither model.pth nor adapter_model.safetensors"):
        load_released(str(folder))


def test_version_1_1_is_told_by_the_folder_itself(videoscore: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "models-v1.1" / "VideoScore"
    cached = tmp_path / "models--TIGER-Lab--VideoScore-v1.1" / "snapshots" / "0123abcd"
    for folder, most in ((elsewhere, 16), (cached, 48)):
        folder.parent.mkdir(parents=True)
        folder.symlink_to(videoscore)
        assert len(load_released(str(folder)).choose_frames(100, 8.0)) == most


def test_head_and_backbone_come_from_the_same_files(videoscore: Path, tmp_path: Path) -> None:
    """With one file and an index of others in one folder, the one file counts for both."""
    folder = shutil.copytree(videoscore, tmp_path / "VideoScore")
    state = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    change = {"score.bias": torch.full((5,), 50.0), "model.text_model.norm.weight": torch.zeros(WIDTH)}
    for path in folder.glob("model-*.safetensors"):
        part = load_file(path)
        save_file(part | {n: v for n, v in change.items() if n in part}, path, metadata={"format": "pt"})
    expected = load_released(str(videoscore)).score(make_video(), 8.0, PROMPT)
    assert load_released(str(folder)).score(make_video(), 8.0, PROMPT).scores == expected.scores


def drop_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: rewrite(d / "config.json", lambda c: c.update(text_config=3)), "has no readable config.json"),
        (
            lambda d: rewrite(d / "config.json", lambda c: c.update(quantization_config={"quant_method": "awq"})),
            "can't be loaded|has no readable",
        ),
        (lambda d: rewrite(d / "config.json", lambda c: c.update(architectures=[{}])), "is no released reward model"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), r"can't be loaded \(KeyError: 'weight_map'"),
        (drop_tokenizer, "lacks <image> with id 4"),
        (lambda d: (d / "prompt.txt").write_bytes(b"\xff{prompt}"), "prompt.txt can't be read as UTF-8"),
        (lambda d: change_weights(d, lambda s: s["score.bias"].fill_(math.nan)), "numbers that are not finite"),
        (
            lambda d: rewrite(d / "preprocessor_config.json", lambda c: c.update(size=384)),
            r"preprocessor_config.json is not as released: size is 384",
        ),
        (
            lambda d: rewrite(d / "preprocessor_config.json", lambda c: c.update(size={"shortest_edge": None})),
            "size.shortest_edge is None",
        ),
    ],
    ids=["config", "quantised", "architecture", "index", "tokenizer", "question", "not finite", "size", "edge"],
)
def test_files_of_videoscore_that_are_odd_are_told_in_one_sentence(
    videoscore: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(videoscore, tmp_path / "VideoScore")
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_released(str(folder))
    assert "\n" not in str(caught.value)


def test_files_of_videoreward_that_are_not_there_or_not_tensors_are_refused(tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    pickled = folder / "checkpoint-11352" / "model.pth"
    for content in (b"", pickled.read_bytes()[:-500], b"cposix\nsystem\n(S'touch /tmp/never'\ntR."):
        pickled.write_bytes(content)
        with pytest.raises(InputError, match=r"model.pth is missing, damaged or no plain state dict"):
            load_released(str(folder))
    torch.save({"a": "text"}, pickled)
    with pytest.raises(InputError, match="must hold tensors by name"):
        load_released(str(folder))
    shutil.rmtree(folder / "checkpoint-11352")
    shutil.rmtree(folder / "checkpoint-200")
    with pytest.raises(InputError, match="holds no checkpoint-<step> folder"):
        load_released(str(folder))


def test_settings_of_pictures_are_read_wherever_they_were_saved(videoscore: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videoscore, tmp_path / "VideoScore")
    before = load_released(str(folder)).score(make_video(), 8.0, PROMPT)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config.json is missing or damaged"):
        load_released(str(folder))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_released(str(folder)).score(make_video(), 8.0, PROMPT).scores == before.scores
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {"do_image_splitting": True}}))
    with pytest.raises(InputError, match="do_image_splitting is True"):
        load_released(str(folder))


def test_a_clip_without_a_frame_rate_is_refused(videoscore: Path) -> None:
    with pytest.raises(InputError, match="fps is 0"):
        load_released(str(videoscore)).score(make_video(), 0.0, PROMPT)


def start_network(folder: Path, backbone: str, **changes: Any) -> RewardNetwork:
    config = RewardConfig(backbone=backbone, model=str(folder), patch_size=14, **changes)  # type: ignore[arg-type]
    spec = make_spec(config, (6, 42, 56), LatentGeometry(1, 8, False), 8.0, 5, "float32")
    network = RewardNetwork(RewardSpec(backbone=spec, aspects=config.aspects, patch_aspects=config.patch_aspects))
    network.start_heads(torch.rand(8, len(config.aspects)) * 4 + 1)
    return network.eval()


def test_a_training_from_videoscore_begins_with_its_scores_stretched_to_the_judges_scale(
    videoscore: Path, tmp_path: Path
) -> None:
    network = start_network(videoscore, "idefics2")
    video = make_video(6, 42, 56)  # a size that neither changes
    score = load_released(str(videoscore)).score(video, 8.0, PROMPT)
    with torch.no_grad():
        ratings, _ = score_dense(network, video[None], network.backbone.tokenize([PROMPT]), GRID)
    expected = 1 + (torch.tensor(list(score.scores.values())) - 1) * 4 / 3
    torch.testing.assert_close(ratings[0], expected, atol=1e-3, rtol=1e-3)
    network.start_patch_head()
    assert torch.equal(network.patch_head.weight, network.video_head.weight[network.patch_rows])
    save_reward(network, tmp_path)
    assert torch.equal(load_reward(tmp_path).video_head.weight, network.video_head.weight)


def test_a_training_can_start_from_the_releases_on_qwen(videoscore_qwen: Path, videoreward: Path) -> None:
    for folder, rows in ((videoscore_qwen, 5), (videoreward, 3)):
        network = start_network(folder, "qwen_vl", method="lora")
        head = make_head(rows)
        own = network.spec.aspects.index("text_alignment")
        assert torch.equal(network.video_head.weight[own], head[3 if rows == 5 else 2])
        clips, patches = score_dense(network, make_video()[None], network.backbone.tokenize([PROMPT]), GRID)
        assert torch.isfinite(clips).all() and patches.shape == (1, 2, 3, 3, 4)
