"""`BackboneOptions`: how a backbone runs. Options are checked once, never change, and can be written as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from tadp.diffusion.families import Layout
from tadp.errors import Argument, ModelError, OptionError
from tadp.files.checks import check_choice, check_ordered, check_whole
from tadp.language.matching import Synonyms, checked_names
from tadp.text.conditioning import Conditioning

CombineTimesteps = Literal["mean", "concatenate"]
Value = TypeVar("Value")
_FLAGS = (
    "scale_latents",
    "sample_posterior",
    "imagenet_pixels",
    "detach_attention",
    "record_heads",
    "record_queries",
    "text_adapter",
)
_MOST_TOKENS = 2**16
_MOST_SAMPLES = 10_000
_SEEDS = 2**63


@dataclass(frozen=True)
class BackboneOptions:
    """The options of a `TADPBackbone`.

    Lists become tuples, and levels are sorted without duplicates. Rules that depend on the model, such as which levels
    have attention, are checked when a backbone is built.

    Attributes:
        timestep: Diffusion timestep at which features are read, 0 to 999, or several timesteps. The paper's text says
            0, and its released code uses 1. docs/noise.md lists the timesteps and the noise that other work uses.
        combine_timesteps: How the maps of several timesteps are combined: "mean" averages them, "concatenate"
            concatenates their channels in the order of the timesteps. Attention is always averaged.
        noise_samples: Number of noise samples over which features are averaged; the same noise is added to every image.
            With 0, no noise is added. At most 10,000.
        noise_seed: Seed of the noise.
        scale_latents: Whether latents are multiplied by the VAE's scaling factor (0.18215 in Stable Diffusion 1.x), as
            in the base model's training.
        sample_posterior: Whether latents are sampled from the VAE's posterior, as in the paper's released code. If not,
            its mode is used, and the same image always gives the same features. The random numbers are those of the
            argument `generator` of a call, or else of torch's global generator, which `torch.manual_seed` seeds. Task
            models use the same random numbers for every prediction.
        imagenet_pixels: Whether the VAE gets pixels normalised by ImageNet's mean and standard deviation, as in the
            training of the paper's released detection and Cityscapes models. If not, it gets pixels in [-1, 1], for
            which it was made.
        attach_attention: Levels whose maps get the attention as further channels, one per token. The paper uses (1, 2).
        detach_attention: Whether to stop the gradient at the attached attention. The paper's released code does so,
            although the paper does not mention it.
        record_attention: Levels whose attention is returned without being attached, in addition to the levels in
            `attach_attention`.
        record_heads: Whether to also return the attention of every head of the attached and recorded levels, as
            `Features.attention.heads(level)`.
        record_queries: Whether to keep the queries of attention at the attached and recorded levels, from which
            `Features.attend` computes maps of words that the text lacks. Not for several timesteps or noise samples.
        text_adapter: Whether to add the text adapter of VPD: a small network that trains with the head, and whose
            output is added to the encoded text.
        text_length: Number of tokens of every text, from which `feature_info` counts the channels of attached
            attention. None is the length of the text encoder, 77 for Stable Diffusion.
        pool_attention: Names (words, nouns or classes) over which attention is averaged before it is attached. Maps
            then get one channel per name instead of one per token, for text of any length. The channel is zero if the
            text lacks the name. An empty list attaches attention per token. See `AttentionMaps.pool`.
        pool_synonyms: Further words for the names in `pool_attention`, such as `{"person": ["man", "woman"]}`; None
            adds no words.
        default_text: Text of `backbone(images)` if there is neither a text, an open `conditioning()` block nor a
            captioner. "" is the empty prompt; None raises an error in this case.
        blocks: Numbers of the three blocks of a transformer (Stable Diffusion 3 or FLUX) that become the levels of
            strides 8, 16 and 32, with their attention. None uses the blocks listed in docs/base-models.md.
        levels: Levels whose maps are computed, finest first, such as (2, 3). A pass ends after the last layer that they
            need, other levels have neither a map nor attention, and layers that never run are frozen. None is all
            levels.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a number is out of range, a timestep occurs twice, noise is added to unscaled latents, or
            `record_attention` has a level that `levels` leaves out.
    """

    timestep: int | Sequence[int]
    combine_timesteps: CombineTimesteps
    noise_samples: int
    noise_seed: int
    scale_latents: bool
    sample_posterior: bool
    imagenet_pixels: bool
    attach_attention: Sequence[int]
    detach_attention: bool
    record_attention: Sequence[int]
    record_heads: bool
    record_queries: bool
    text_adapter: bool
    text_length: int | None
    pool_attention: Sequence[str]
    pool_synonyms: Synonyms | None
    default_text: str | None
    blocks: Sequence[int] | None
    levels: Sequence[int] | None

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False; got {getattr(self, name)!r}.")
        if isinstance(self.pool_attention, Mapping):
            raise TypeError("pool_attention must be a list of names, and synonyms are passed as pool_synonyms.")
        try:
            names, synonyms = checked_names(self.pool_attention, self.pool_synonyms)
        except (TypeError, ValueError) as error:
            raise type(error)(f"pool_attention: {error}") from error
        self._set(
            timestep=_check_timestep(self.timestep),
            noise_samples=check_whole(self.noise_samples, name="noise_samples", minimum=0),
            noise_seed=check_whole(self.noise_seed, name="noise_seed", minimum=None),
            attach_attention=_sort_levels(self.attach_attention, "attach_attention"),
            record_attention=_sort_levels(self.record_attention, "record_attention"),
            text_length=None if self.text_length is None else check_whole(self.text_length, name="text_length"),
            pool_attention=names,
            pool_synonyms=synonyms,
            blocks=None if self.blocks is None else _check_blocks(self.blocks),
            levels=None if self.levels is None else check_levels(self.levels),
        )
        check_choice(self.combine_timesteps, get_args(CombineTimesteps), name="combine_timesteps")
        if not 0 <= self.noise_seed < _SEEDS:
            raise ValueError(f"noise_seed must be from 0 to 2**63 - 1; got {self.noise_seed}.")
        if self.noise_samples > _MOST_SAMPLES:
            raise OptionError(Argument("noise_samples"), f" must be {_MOST_SAMPLES} at most; got {self.noise_samples}.")
        if self.text_length is not None and self.text_length > _MOST_TOKENS:
            raise OptionError(Argument("text_length"), f" must be {_MOST_TOKENS} at most; got {self.text_length}.")
        if self.noise_samples and not self.scale_latents:
            raise ValueError("noise needs latents of unit scale; leave scale_latents=True, or pass noise_samples=0.")
        for level in self.record_attention:
            if level not in self.attention_levels:
                raise ValueError(
                    f"record_attention has level {level}, but levels={self.levels} leaves it out. Add it to levels."
                )
        for name in ("record_heads", "record_queries"):
            if getattr(self, name) and not self.attention_levels:
                raise ValueError(f"{name} needs levels to record; pass record_attention=(0, 1), or {name}=False.")
        if self.record_queries and (len(self.timesteps) > 1 or self.noise_samples > 1):
            raise ValueError(
                "record_queries keeps the queries of one pass; pass one timestep and at most noise_samples=1, or "
                "record_queries=False."
            )
        if not isinstance(self.default_text, str | None):
            raise TypeError(f"default_text must be one string, or None; got {type(self.default_text).__name__}.")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # a frozen dataclass sets its own fields this way

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps, in the order in which their maps are concatenated."""
        return tuple(self.timestep) if isinstance(self.timestep, Sequence) else (self.timestep,)

    @property
    def attention_levels(self) -> list[int]:
        """The levels that are computed and whose attention is recorded or attached."""
        levels = sorted({*self.attach_attention, *self.record_attention})
        return [level for level in levels if self.levels is None or level in self.levels]

    @property
    def attached_levels(self) -> list[int]:
        """The levels whose maps get attention: those in `attach_attention` that are computed."""
        return [level for level in self.attach_attention if level in self.attention_levels]

    def changed(self, **options: Any) -> "BackboneOptions":
        """Return the same options with some of them changed.

        Raises:
            TypeError: If an option is unknown or of the wrong type.
            ValueError: If a value is out of range.
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name!r}; a backbone has {', '.join(known)}.")
        return replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """The options as arguments of `TADPBackbone`, in JSON's types; `save_pretrained` writes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check_layout(self, layout: Layout, vae_reduction: int) -> None:
        """Check that all levels exist, and that those whose attention is attached or recorded have attention.

        Args:
            layout: Where the denoiser's levels are, and which have attention.
            vae_reduction: Width of a latent cell in pixels, for the message.

        Raises:
            ValueError: If a level does not exist, or `attach_attention` or `record_attention` has a level without
                attention.
        """
        if self.levels is not None:
            check_levels(self.levels, {level: vae_reduction * cells for level, cells in enumerate(layout.reduction)})
        for level in sorted({*self.attach_attention, *self.record_attention}):
            if level not in layout.attention_levels:
                levels = ", ".join(
                    f"{k} (stride {vae_reduction * layout.reduction[k]})" for k in layout.attention_levels
                )
                raise ValueError(f"no attention at level {level}; this model has it at {levels}.")

    def check_text(self, text: Conditioning, layout: Layout) -> None:
        """Check that the denoiser can take a text, and that its attention has as many channels as in `feature_info`.

        Args:
            text: The encoded text, of any length.
            layout: The denoiser's levels and the widths of its inputs.

        Raises:
            ValueError: If the text has the wrong width or length, lacks the pooled embedding that the model needs, or
                lacks the words that `pool_attention` needs.
        """
        _, length, width = text.embeddings.shape
        if width != layout.text_width:
            raise ValueError(
                f"embeddings are {width} wide, but the model takes {layout.text_width}; encode the text with this "
                "backbone."
            )
        pooled = None if text.pooled is None else text.pooled.shape[1]
        if layout.pooled_width is not None and pooled != layout.pooled_width:
            raise ValueError(
                f"this model takes a pooled embedding of each text, {layout.pooled_width} wide; this text has "
                f"{'none' if pooled is None else f'one of {pooled}'}. Encode it with this backbone's encode_text, or "
                "pass Conditioning(…, pooled=…)."
            )
        if not self.attached_levels:
            return
        if self.pool_attention and text.words is None:
            raise ValueError(
                "attention is pooled by name, but this text has no words; pass captions, or a Conditioning with "
                "`words`."
            )
        if not self.pool_attention and self.text_length not in (None, length):
            raise ValueError(
                f"this text has {length} tokens, but feature_info counts {self.text_length} attention channels; build "
                f"the backbone with text_length={length}, or attach none with attach_attention=(), or one per name "
                "with pool_attention=[…]."
            )

    def check_text_per_tile(self) -> None:
        """Refuse attention per token if each tile has its own text.

        Raises:
            ValueError: If attention is attached per token, or recorded.
        """
        if self.attached_levels and not self.pool_attention:
            raise ValueError(
                "attention is attached per token, but a token is a different word in the text of each tile. Pass one "
                "caption for all tiles, or build the backbone with pool_attention=[…], which attaches it per name, or "
                "with attach_attention=()."
            )
        if self.record_attention:
            raise ValueError(
                "attention per token cannot be put together if each tile has its own text. Pass one caption for all "
                "tiles, or build the backbone with record_attention=()."
            )


class Option(Generic[Value]):
    """A read-only attribute of a backbone that returns one of its options."""

    def __set_name__(self, _backbone: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, backbone: None, _kind: type) -> "Option[Value]": ...
    @overload
    def __get__(self, backbone: Any, _kind: type) -> Value: ...
    def __get__(self, backbone: Any, _kind: type) -> "Option[Value] | Value":
        return self if backbone is None else getattr(backbone.options, self._name)

    def __set__(self, backbone: Any, value: object) -> None:
        raise AttributeError(
            f"a backbone's options cannot be set. backbone.with_options({self._name}=…) gives a backbone with another "
            f"{self._name} that shares the weights."
        )


def check_saved_options(options: Any, path: Path | str) -> None:
    """Refuse options of a saved model that a backbone does not have.

    An entry such as "unet" or "lora" would otherwise load files from anywhere.

    Args:
        options: The entry "options" of a config.
        path: The config, for the message.

    Raises:
        ModelError: If `options` is not a dictionary, or has an entry that is not an option of a backbone.
    """
    known = [field.name for field in fields(BackboneOptions)]
    if not isinstance(options, dict):
        raise ModelError(f"{path} has the backbone options {options!r}, which is not an object. Get the model again.")
    for name in options:
        if name not in known:
            raise ModelError(
                f"{path} has the backbone option {name!r}, which this tadp does not know; it knows {', '.join(known)}."
            )


def check_levels(levels: Any, strides: Mapping[int, int] | None = None) -> tuple[int, ...]:
    """Check the levels whose maps should be computed.

    Args:
        levels: The levels, finest first.
        strides: Strides in pixels of the levels that there are, by level; None if they are not known yet.

    Raises:
        TypeError: If `levels` is not a list of whole numbers, or is a set, which has no order.
        ValueError: If a level does not exist, or `levels` is empty, not sorted, or has a level twice.
    """
    check_ordered(levels=levels)
    if isinstance(levels, (int, str, Mapping)) or not isinstance(levels, Iterable):
        fix = f". Pass ({levels},)." if isinstance(levels, int) and not isinstance(levels, bool) else "."
        raise TypeError(f"levels must be several numbers, such as (0, 1); got {levels!r}{fix}")
    numbers = tuple(check_whole(level, name="each of levels", minimum=None) for level in levels)
    if strides is not None:
        available = ", ".join(f"{level} (stride {stride})" for level, stride in strides.items())
        for level in numbers:
            if level not in strides:
                raise ValueError(f"no level {level}; this backbone has levels {available}.")
    if not numbers or list(numbers) != sorted(set(numbers)):
        raise ValueError(f"levels must be one or more different levels, finest first; got {numbers}.")
    return numbers


def described_options() -> str:
    """Return the descriptions of the options from `BackboneOptions`, as arguments for another docstring."""
    return (BackboneOptions.__doc__ or "").partition("    Attributes:\n")[2].partition("\n\n    Raises:")[0].strip()


def _check_timestep(timestep: int | Sequence[int]) -> int | tuple[int, ...]:
    """Check one timestep or several; `Passes` checks that the model's schedule has them."""
    numbers = timestep if isinstance(timestep, Sequence) and not isinstance(timestep, str) else [timestep]
    timesteps = [check_whole(number, name="timestep", minimum=None) for number in numbers]
    if not timesteps:
        raise ValueError("timestep must be one number or several; got none.")
    if len(set(timesteps)) < len(timesteps):
        raise ValueError(f"timesteps must differ from each other; got {tuple(timesteps)}.")
    return tuple(timesteps) if len(timesteps) > 1 else timesteps[0]


def _check_blocks(blocks: Any) -> tuple[int, ...]:
    if not isinstance(blocks, Sequence) or isinstance(blocks, str):  # a set has no order, and the first is the finest
        raise TypeError(f"blocks must be a list of numbers, finest level first, such as (15, 11, 8); got {blocks!r}.")
    return tuple(check_whole(number, name="a block", minimum=None) for number in blocks)


def _sort_levels(levels: Any, name: str) -> tuple[int, ...]:
    if isinstance(levels, int) or not isinstance(levels, Iterable):
        raise TypeError(f"{name} must be a list of levels, such as (1, 2), or () for none; got {levels!r}.")
    return tuple(sorted({check_whole(level, name=name, minimum=None) for level in levels}))
