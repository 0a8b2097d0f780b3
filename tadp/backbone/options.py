"""`BackboneOptions`: how a backbone runs, checked once, never changed, written as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from tadp.diffusion.families import Layout
from tadp.files.checks import check_choice, check_whole
from tadp.language.matching import Synonyms, checked_names
from tadp.text.conditioning import Conditioning

CombineTimesteps = Literal["mean", "concatenate"]
Value = TypeVar("Value")
_FLAGS = ("scale_latents", "sample_posterior", "imagenet_pixels", "detach_attention", "text_adapter")
_SEEDS = 2**63


@dataclass(frozen=True)
class BackboneOptions:
    """The options of a `TADPBackbone`.

    Lists become tuples, and levels stand in order, each once. What depends on the model, such as which levels have
    attention, is checked by the backbone.

    Attributes:
        timestep: Diffusion time at which features are read, 0 to 999, or several. The paper says 0, its released code
            runs 1. docs/noise.md says what others take, here and in the next three.
        combine_timesteps: Average the maps of several timesteps, or concatenate them in their order. Attention is
            averaged.
        noise_samples: Average over so many noises, the same for every image; 0 adds none.
        noise_seed: Seed of the noises.
        scale_latents: Multiply latents by the VAE's scaling factor (0.18215), as in training.
        sample_posterior: Sample the VAE's posterior, as the released code does; its mode otherwise, so that one image
            gives one feature.
        imagenet_pixels: Give the VAE pixels normalised by ImageNet's mean and deviation, as the released detection and
            Cityscapes models were trained, in place of [-1, 1], for which it was made.
        attach_attention: Levels whose maps get the attention as further channels, one a token. (1, 2) is the paper's.
        detach_attention: Stop the gradient at the attached attention, as the released code does unsaid.
        record_attention: Further levels whose attention is returned, not attached.
        text_adapter: Train VPD's gated adapter on the text.
        text_length: Tokens of every text, which `feature_info` counts as channels; the text encoder's 77 by default.
        pool_attention: Names (words, nouns, classes) by which attention is pooled before it is attached: a channel a
            name, see `AttentionMaps.pool`, instead of one a token, and text of any length. A name that a text lacks
            gives zeros.
        pool_synonyms: Further words for these names, `{"person": ["man", "woman"]}`.
        default_text: The text of `backbone(images)` where nothing else gives one; "" is the empty prompt, and None
            refuses such a call.
        blocks: Of a transformer (Stable Diffusion 3, FLUX), the numbers of the three blocks that become the levels of
            strides 8, 16 and 32, whose attention is theirs too; None takes those of docs/base-models.md.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a number is out of range, a timestep occurs twice, or noise is added to unscaled latents.
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
    text_adapter: bool
    text_length: int | None
    pool_attention: Sequence[str]
    pool_synonyms: Synonyms | None
    default_text: str | None
    blocks: Sequence[int] | None

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False; got {getattr(self, name)!r}.")
        names, synonyms = checked_names(self.pool_attention, self.pool_synonyms)
        self._set(
            timestep=_checked_timestep(self.timestep),
            noise_samples=check_whole(self.noise_samples, name="noise_samples", minimum=0),
            noise_seed=check_whole(self.noise_seed, name="noise_seed", minimum=None),
            attach_attention=_level_set(self.attach_attention, "attach_attention"),
            record_attention=_level_set(self.record_attention, "record_attention"),
            text_length=None
            if self.text_length is None
            else check_whole(self.text_length, name="text_length", minimum=0),
            pool_attention=names,
            pool_synonyms=synonyms,
            blocks=None if self.blocks is None else tuple(self.blocks),
        )
        check_choice(self.combine_timesteps, get_args(CombineTimesteps), name="combine_timesteps")
        if not 0 <= self.noise_seed < _SEEDS:
            raise ValueError(f"noise_seed is 0 to 2**63 - 1; got {self.noise_seed}.")
        if self.noise_samples and not self.scale_latents:
            raise ValueError(
                "noise is for latents of unit scale; leave scale_latents as it is, or pass noise_samples=0."
            )
        if not isinstance(self.default_text, str | None):
            raise TypeError(f"default_text is one text, or None; got a {type(self.default_text).__name__}.")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # a frozen dataclass sets its own fields so

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps, in the order in which their maps are concatenated."""
        return tuple(self.timestep) if isinstance(self.timestep, Sequence) else (self.timestep,)

    @property
    def attention_levels(self) -> list[int]:
        """The levels whose attention is recorded, attached ones included."""
        return sorted({*self.attach_attention, *self.record_attention})

    def changed(self, **options: Any) -> "BackboneOptions":
        """The same options, but for those that are named.

        Raises:
            TypeError: If there is no such option.
            TypeError, ValueError: As the constructor.
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name!r}; a backbone has {', '.join(known)}.")
        return replace(self, **options)

    def to_dict(self) -> dict[str, Any]:
        """The options as `TADPBackbone` takes them, of the types that JSON has; `save_pretrained` writes these."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check_levels(self, layout: Layout, vae_reduction: int) -> None:
        """Refuse attention at a level that has none.

        Args:
            layout: The denoiser's levels.
            vae_reduction: Pixels per latent cell.

        Raises:
            ValueError: If a level has no attention.
        """
        for level in self.attention_levels:
            if level not in layout.attention_levels:
                levels = ", ".join(
                    f"{k} (stride {vae_reduction * layout.reduction[k]})" for k in layout.attention_levels
                )
                raise ValueError(f"no attention at level {level}; this model has it at {levels}.")

    def check_text(self, text: Conditioning, layout: Layout) -> None:
        """Refuse text that the denoiser does not take, or whose attention has other channels than `feature_info` says.

        Args:
            text: Text of any length.
            layout: The widths that the denoiser takes.

        Raises:
            ValueError: If the text has another width or length, or lacks what the model or `pool_attention` needs.
        """
        _, length, found = text.embeddings.shape
        if found != layout.text_width:
            raise ValueError(
                f"embeddings are {found} wide, the model takes {layout.text_width}; encode the text with this backbone."
            )
        pooled = None if text.pooled is None else text.pooled.shape[1]
        if layout.pooled_width is not None and pooled != layout.pooled_width:
            raise ValueError(
                f"this model takes a pooled embedding of each text, {layout.pooled_width} wide; this text has "
                f"{'none' if pooled is None else f'one of {pooled}'}. Encode it with this backbone's encode_text, or "
                "pass Conditioning(…, pooled=…)."
            )
        if not self.attach_attention:
            return
        if self.pool_attention and text.words is None:
            raise ValueError(
                "attention is pooled by name, and this text has no words; pass captions, or a Conditioning with "
                "`words`."
            )
        if not self.pool_attention and self.text_length not in (None, length):
            raise ValueError(
                f"this text has {length} tokens, feature_info promises {self.text_length} attention channels; build "
                f"the backbone with text_length={length}, or attach none with attach_attention=(), or one per name "
                "with pool_attention=[…]."
            )

    def check_text_per_tile(self) -> None:
        """Refuse attention by token where each tile has a text of its own.

        Raises:
            ValueError: If attention is attached by token, or recorded.
        """
        if self.attach_attention and not self.pool_attention:
            raise ValueError(
                "attention is attached by token, and a token is another word in each tile's own text. Pass one caption "
                "for all tiles, or build the backbone with pool_attention=[…], which attaches it by name, or with "
                "attach_attention=()."
            )
        if self.record_attention:
            raise ValueError(
                "attention by token cannot be put together where each tile has a text of its own. Pass one caption for "
                "all tiles, or build the backbone with record_attention=()."
            )


class Option(Generic[Value]):
    """An option as an attribute of a backbone, to read."""

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
            f"a backbone's options do not change. backbone.with_options({self._name}=…) gives a backbone with another "
            f"{self._name} that shares the weights."
        )


def described_options() -> str:
    """What the options are, as arguments in a docstring: they are described once, at `BackboneOptions`."""
    return (BackboneOptions.__doc__ or "").partition("    Attributes:\n")[2].partition("\n\n    Raises:")[0].strip()


def _checked_timestep(timestep: int | Sequence[int]) -> int | tuple[int, ...]:
    """One number, or several; whether the model's schedule has them is checked by `Passes`."""
    given = timestep if isinstance(timestep, Sequence) and not isinstance(timestep, str) else [timestep]
    timesteps = [check_whole(one, name="timestep", minimum=None) for one in given]
    if not timesteps:
        raise ValueError("timestep is a number or several; got none.")
    if len(set(timesteps)) < len(timesteps):
        raise ValueError(f"each timestep counts once; got {tuple(timesteps)}.")
    return tuple(timesteps) if len(timesteps) > 1 else timesteps[0]


def _level_set(levels: Any, name: str) -> tuple[int, ...]:
    if isinstance(levels, int) or not isinstance(levels, Iterable):
        raise TypeError(f"{name} is a list of levels, such as (1, 2), or () for none; got {levels!r}.")
    return tuple(sorted(set(levels)))
