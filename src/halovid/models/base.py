"""`DiffusionModel`, the one class through which stages use any diffusers pipeline.

Its family says what is particular about the pipeline. Only the parts that a stage needs are loaded.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from halovid.config.run import GeneratorConfig
from halovid.config.sections import LoraOptions
from halovid.maths.grid import LatentGeometry
from halovid.models.family import Family
from halovid.models.hidden_states import hidden_states
from halovid.models.loading import advice, components, empty_component, load_component, load_pipeline, readable
from halovid.models.lora import LORA_FILE, add_lora, has_lora, load_lora, merge_lora, save_lora, without_lora
from halovid.records import Conditioning
from halovid.store.errors import InputError
from halovid.store.runtime import announce

Part = Literal["text", "autoencoder", "denoiser"]
PARTS: tuple[Part, ...] = get_args(Part)


class Sampler(Protocol):
    """Samples clips from conditionings.

    Shapes: `video` [B, 3, F, H, W] float in [-1, 1]; `latents` [B, C, T, h, w], scaled as the network expects.
    """

    geometry: LatentGeometry

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        """The latents of a clip for each row; each depends on its own row and seed alone, whatever the batch holds."""

    def decode_video(self, latents: Tensor) -> Tensor:
        """The pixels of latents, clamped to [-1, 1]."""


class DiffusionModel:
    """A diffusion model that takes and returns the same tensors whatever its family.

    Shapes are those of `Sampler`; `noisy` is like `latents`; `level` is [B] in 0..1, see `maths.noise.NoiseProcess`. A
    method that needs a part that was not opened raises a RuntimeError.

    Attributes:
        geometry: the strides of its autoencoder.
        noise: its noise process.
        denoisers: component name -> the network that training changes; empty unless the part "denoiser" is open.
        lora_targets: the ends of the names of the layers that get a LoRA.

    Args:
        folder, index: a pipeline's folder and the content of its model_index.json.
        parts: the parts to load. Denoisers and text encoders get `dtype`, autoencoders float32.
        device: where the parts are put.
        negative: the conditioning of `generator.negative_prompt`, for a model that is opened without "text".

    Raises:
        InputError: the pipeline can't be driven or read, or makes no clips of the configured size; or
            `generator.weights` are damaged or of another model.
    """

    def __init__(
        self,
        family: Family,
        folder: Path,
        index: dict[str, Any],
        config: GeneratorConfig,
        parts: Collection[Part],
        device: torch.device,
        dtype: torch.dtype,
        negative: Conditioning | None = None,
    ) -> None:
        self.geometry = find_geometry(family, folder, index, config)
        announce(f"load {config.model}: {', '.join(part for part in PARTS if part in parts) or 'settings'}")
        loaded = [name for name in components(index) if _part_of(name, family) in {*parts, None}]
        dtypes = {name: torch.float32 if name in family.autoencoders else dtype for name in loaded}
        closed = [name for name in family.autoencoders if name not in loaded]
        self._pipe: Any = load_pipeline(folder, index, loaded, dtypes, described=closed).to(device)
        self._family, self._config, self._parts, self._device = family, config, frozenset(parts), device
        self._negative = negative
        self.noise = family.noise(self._pipe.scheduler)
        self.lora_targets = family.lora_targets
        self.denoisers: dict[str, nn.Module] = {}
        if "denoiser" in self._parts:
            self.denoisers = {name: getattr(self._pipe, name) for name in family.denoisers}
            if config.weights is not None:
                self.load_weights(config.weights)
                self._merge_lora()  # what is trained from here on gets an adapter of its own
            family.prepare(self._pipe)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts, a row each."""
        self._need("text")
        return Conditioning(self._family.encode(self._pipe, prompts))

    @torch.no_grad()
    def encode_negative(self) -> Conditioning:
        """The conditioning of `generator.negative_prompt`, one row."""
        self._need("text")
        encode = self._family.encode_negative or self._family.encode
        return Conditioning(encode(self._pipe, [self._config.negative_prompt]))

    def negative(self) -> Conditioning | None:
        """The conditioning of the negative prompt, one row; None if sampling uses no classifier-free guidance."""
        if self._family.guided(self._config) and self._negative is None:
            self._negative = self.encode_negative()
        return self._negative if self._family.guided(self._config) else None

    @torch.no_grad()
    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        """Latents [B, C, T, h, w], sampled by the pipeline's own call with its scheduler and its guidance."""
        self._need("denoiser", "autoencoder")
        arguments = dict(self._family.arguments(conditioning.to(self._device).tensors))
        negative = self.negative()
        if negative is not None:
            repeated = negative.to(self._device).repeat(len(seeds))
            negative_arguments = self._family.arguments(repeated.tensors)
            arguments |= {f"negative_{name}": value for name, value in negative_arguments.items()}
        self._family.configure(self._pipe, self._config)
        latents = self._pipe(
            **arguments,
            **self._family.call(self._config),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="latent",
            return_dict=False,
        )[0]
        config = self._config
        shape = self.geometry.latent_shape(config.num_frames, config.height, config.width)
        return self._family.unpack(self._pipe, latents, shape)

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """The latents of clips, [B, C, T, h, w]: the mode of the autoencoder's posterior."""
        return self._family.encode_video(self._autoencoder(), video.to(self._device, torch.float32))

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """The pixels of latents, [B, 3, F, H, W], clamped to [-1, 1]."""
        decoded = self._family.decode_video(self._autoencoder(), latents.to(self._device, torch.float32))
        return decoded.clamp(-1, 1)

    def predict(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output without guidance, [B, C, T, h, w]; training compares it with `noise.target`."""
        self._need("denoiser")
        [network] = self.denoisers.values()
        dtype = _number_format(network)
        tensors = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in conditioning.tensors.items()
        }
        timestep = self.noise.timestep(level)
        return self._family.predict(self._pipe, network, noisy.to(dtype), timestep, tensors, self._config)

    def hidden_states(self, noisy: Tensor, level: Tensor, conditioning: Conditioning, block: int) -> Tensor:
        """What the denoiser's block of this number, counted from 0, gives the next one: [B, D, T', h', w'].

        T', h', w' are latent cells, or groups of them where the network joins some to one token. Later blocks are not
        computed.

        Raises:
            InputError: there is no such block, or it gives something else than a state for each token of the clip.
        """
        blocks = self.blocks()
        if block >= len(blocks):
            raise InputError(f"the denoiser has {len(blocks)} blocks, and block {block} (counted from 0) is asked for")
        return hidden_states(blocks[block], lambda: self.predict(noisy, level, conditioning), noisy.shape[2:])

    @property
    def device(self) -> torch.device:
        """Where its parts are."""
        return self._device

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """The shape of a clip's latents, (C, T, h, w)."""
        self._need("denoiser")
        [network] = self.denoisers.values()
        config = self._config
        return self._family.channels(network), *self.geometry.latent_shape(
            config.num_frames, config.height, config.width
        )

    @property
    def calls_per_step(self) -> int:
        """How often a step of sampling calls the network: twice with classifier-free guidance."""
        return 1 if self.negative() is None else 2

    def predict_guided(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output with classifier-free guidance, as sampling uses it, [B, C, T, h, w]."""
        output, negative = self.predict(noisy, level, conditioning), self.negative()
        if negative is None:
            return output
        negative_output = self.predict(noisy, level, negative.to(noisy.device).repeat(len(noisy)))
        return self._family.guide(output, negative_output, self._config.guidance_scale)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, conditioning: Conditioning, levels: Tensor) -> Tensor:
        """Clips brought from the first of these noise levels to the last, [B, C, T, h, w], by a call for each step.

        Args:
            levels: [steps + 1], falling.
        """
        for level, next_level in itertools.pairwise(levels.to(noisy)):
            step = level.expand(len(noisy)), next_level.expand(len(noisy))
            noisy = self.noise.step(self.predict_guided(noisy, step[0], conditioning), noisy, *step)
        return noisy

    def with_guidance(self, guidance_scale: float) -> DiffusionModel:
        """The same model, which shares all weights, with another strength of guidance."""
        model = copy.copy(self)
        model._config = self._config.model_copy(update={"guidance_scale": guidance_scale})
        return model

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of the denoisers: the units of sharding, compiling and gradient checkpointing."""
        children = [child for network in self.denoisers.values() for child in network.children()]
        return [block for child in children if isinstance(child, nn.ModuleList) for block in child]

    def add_lora(self, options: LoraOptions) -> None:
        """Adds an adapter to train, which starts as the identity: predictions do not change yet.

        Raises:
            InputError: `options.targets` names no layer.
        """
        self._need("denoiser")
        for network in self.denoisers.values():
            add_lora(network, options, options.targets or self.lora_targets)

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """A context in which the model predicts as if it had no adapter."""
        with ExitStack() as stack:
            for network in self.denoisers.values():
                stack.enter_context(without_lora(network))
            yield

    def save_weights(self, folder: Path) -> None:
        """Writes what training changes: an adapter for the pipeline's own `load_lora_weights`, or all weights."""
        for name, network in self.denoisers.items():
            if has_lora(network):
                save_lora(network, name, folder)
            else:
                network.save_pretrained(folder / name)  # type: ignore[operator]

    def load_weights(self, folder: Path) -> None:
        """Loads what `save_weights` wrote.

        Raises:
            InputError: it is damaged, or of another model.
        """
        self._need("denoiser")
        for name, network in self.denoisers.items():
            if (folder / LORA_FILE).exists():
                load_lora(network, name, folder)
            else:
                trained = load_component(folder / name, type(network), _number_format(network))
                network.load_state_dict(trained.state_dict())

    def save_merged(self, folder: Path) -> None:
        """Writes the whole pipeline as a diffusers folder, with the adapter merged into the weights that it adapts."""
        self._need(*PARTS)
        self._merge_lora()
        self._pipe.save_pretrained(folder)

    def _merge_lora(self) -> None:
        for network in self.denoisers.values():
            if has_lora(network):
                merge_lora(network)

    def _need(self, *parts: Part) -> None:
        missing = [part for part in parts if part not in self._parts]
        if missing:
            raise RuntimeError(
                f"the model was opened with the parts {sorted(self._parts)}; this needs its {' and '.join(missing)} too"
            )

    def _autoencoder(self) -> Any:
        self._need("autoencoder")
        return getattr(self._pipe, self._family.autoencoders[0])


def _part_of(component: str, family: Family) -> Part | None:
    """The part that a pipeline's component belongs to; None for the scheduler, which is always loaded."""
    if component == "scheduler":
        return None
    if component in family.denoisers:
        return "denoiser"
    return "autoencoder" if component in family.autoencoders else "text"


def find_geometry(family: Family, folder: Path, index: dict[str, Any], config: GeneratorConfig) -> LatentGeometry:
    """The strides of a pipeline's autoencoder, read from its settings without loading weights.

    Raises:
        InputError: the pipeline can't be driven or read, or makes no clips of the configured size.
    """
    with readable(f"the settings in {folder}", advice()):
        problem = family.problem(folder, config)
    if problem:
        raise InputError(f"generator.model {config.model!r} {problem}")
    geometry = family.geometry(empty_component(folder, index, family.autoencoders[0]))
    _check_size(config, geometry, family)
    return geometry


def _check_size(config: GeneratorConfig, geometry: LatentGeometry, family: Family) -> None:
    """InputError for clips whose size the autoencoder or the network can't take."""
    side_multiple = geometry.spatial_stride * family.side_multiple
    if config.height % side_multiple or config.width % side_multiple:
        raise InputError(
            f"generator.height x width is {config.height} x {config.width}; both must be multiples of {side_multiple} "
            f"for {config.model!r}"
        )
    latent_frames, *_ = geometry.latent_shape(config.num_frames, config.height, config.width)
    lone_frames = int(geometry.causal_first_frame)  # a causal autoencoder's first frame is a latent frame of its own
    if (latent_frames - lone_frames) % family.frame_multiple:
        stride = geometry.temporal_stride * family.frame_multiple
        allowed = f"{stride} * k + {lone_frames}" if lone_frames else f"a multiple of {stride}"
        raise InputError(f"generator.num_frames is {config.num_frames}; {config.model!r} needs {allowed}")


def _number_format(network: nn.Module) -> torch.dtype:
    """What a network computes in: some of its parameters may be kept in float32, and an adapter's always are."""
    return cast(ModelMixin, network).dtype
