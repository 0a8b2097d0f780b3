"""JSON files of models: each key with each class of wrong value, and each file with each sort of damage.

A wrong value is handled if it is refused by file and key (or as a config that the weights do not fit), or if it changes
nothing that the model returns.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .cases import MOST_PER_FAMILY, Kind, family
from .damage import CONTENTS, PLACES, VALUES, damage
from .fixtures import copy, described, features, predicted, reference


class Config(NamedTuple):
    """A JSON file of a fixture, its keys ("outer.inner" in an object), and the function that reads it."""

    fixture: str
    file: str
    keys: str
    load: Callable[[Path], Any]
    result: str  # of the intact fixture, see `reference`


def modified(folder: Path) -> list[str]:
    from tadp import CaptionModifier

    return CaptionModifier.from_pretrained(folder)(["a dog"])


def noisy_features(folder: Path) -> Any:
    return features(folder, noise_samples=1, timestep=50)


CONFIGS = {
    "U-Net": Config("sd", "unet/config.json",
        "_class_name in_channels layers_per_block block_out_channels down_block_types up_block_types mid_block_type "
        "cross_attention_dim attention_head_dim num_attention_heads norm_num_groups norm_eps act_fn freq_shift "
        "flip_sin_to_cos center_input_sample only_cross_attention transformer_layers_per_block class_embed_type "
        "time_embedding_type resnet_time_scale_shift addition_embed_type encoder_hid_dim use_linear_projection "
        "upcast_attention projection_class_embeddings_input_dim downsample_padding dual_cross_attention",
        features, "features"),
    "VAE": Config("sd", "vae/config.json",
        "_class_name in_channels latent_channels block_out_channels down_block_types layers_per_block norm_num_groups "
        "act_fn scaling_factor shift_factor use_quant_conv mid_block_add_attention force_upcast out_channels",
        features, "features"),
    "text encoder": Config("sd", "text_encoder/config.json",
        "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
        "max_position_embeddings layer_norm_eps eos_token_id attention_dropout dtype architectures auto_map "
        "_attn_implementation projection_dim torch_dtype quantization_config",
        features, "features"),
    "tokenizer": Config("sd", "tokenizer/tokenizer_config.json",
        "model_max_length tokenizer_class auto_map bos_token eos_token unk_token pad_token extra_special_tokens "
        "padding_side truncation_side added_tokens_decoder do_lower_case errors clean_up_tokenization_spaces backend",
        features, "features"),
    "vocabulary": Config("sd", "tokenizer/tokenizer.json",
        "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model model.type "
        "model.vocab model.merges model.unk_token model.end_of_word_suffix",
        features, "features"),
    "backbone": Config("saved", "tadp_config.json",
        "has_text_encoder options options.timestep options.combine_timesteps options.noise_samples options.noise_seed "
        "options.scale_latents options.sample_posterior options.imagenet_pixels options.attach_attention "
        "options.detach_attention options.record_attention options.record_heads options.text_adapter "
        "options.text_length options.pool_attention options.pool_synonyms options.default_text options.blocks "
        "options.levels",
        features, ""),
    "scheduler": Config("sd", "scheduler/scheduler_config.json",
        "_class_name num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type "
        "rescale_betas_zero_snr",
        noisy_features, ""),
    "segmentation model": Config("segmentation", "config.json",
        "format model options base learned_tokens own_text_encoder captioner record options.class_names options.head "
        "options.head_options options.prompt_mode options.prompt_classes options.tune options.lora_rank options.loss "
        "options.ignore_label options.window_px options.stride_px base.name base.revision base.options "
        "base.options.timestep base.options.attach_attention base.options.text_length options.head_options.channels",
        predicted, "segmentation"),
    "depth model": Config("depth", "config.json",
        "options.max_depth_m options.head_options options.head_options.channels options.head_options.deconv_channels "
        "options.prompt_mode options.tune options.window_px options.stride_px base.name base.options model format",
        partial(predicted, task="depth"), "depth"),
    "modifier": Config("modifier", "modifier.json", "steps steps.0 steps.0.template steps.0.literal steps.0.token "
        "steps.0.has_embedding steps.0.has_unet", modified, ""),
    "captioner": Config("blip", "config.json",
        "model_type architectures auto_map dtype image_text_hidden_size initializer_factor text_config vision_config "
        "text_config.vocab_size text_config.hidden_size text_config.num_hidden_layers text_config.num_attention_heads "
        "text_config.max_position_embeddings text_config.intermediate_size text_config.bos_token_id "
        "vision_config.hidden_size vision_config.image_size vision_config.patch_size vision_config.num_hidden_layers "
        "vision_config.num_attention_heads vision_config.hidden_act projection_dim",
        described, "captions"),
    "captioner's processor": Config("blip", "processor_config.json",
        "processor_class image_processor image_processor.image_processor_type image_processor.size "
        "image_processor.size.height image_processor.image_mean image_processor.image_std image_processor.do_resize "
        "image_processor.rescale_factor image_processor.resample image_processor.do_normalize auto_map",
        described, "captions"),
    "captioner's generation": Config("blip", "generation_config.json",
        "bos_token_id eos_token_id pad_token_id max_length num_beams do_sample temperature repetition_penalty "
        "num_return_sequences use_cache cache_implementation custom_generate",
        described, "captions"),
}  # fmt: skip


# Values that another model of the same kind may have.
VALID = {
    ("options.attach_attention", "empty list"),
    ("rescale_betas_zero_snr", "true"),
    ("image_processor.resample", "zero"),
    ("image_processor.resample", "true"),
    ("beta_start", "zero"),
    ("model.merges", "empty list"),
}


def replaced(content: Any, key: str, value: Any) -> Any:
    """A JSON value with another value under a key, which is added if it does not exist."""
    first, _, rest = key.partition(".")
    if isinstance(content, list):
        return [replaced(content[0], rest, value) if rest else value, *content[1:]]
    new = replaced(content.get(first, {}), rest, value) if rest else value
    return {**content, first: new}


def read_changed(config: Config, key: str, sort: str, folder: Path, rng: Random) -> tuple[Any, Any]:
    """What the model returns with the wrong value, and what it returns without it."""
    path = copy(config.fixture, folder) / config.file
    expected = reference(config.result) if config.result else config.load(path.parents[config.file.count("/")])
    path.write_text(json.dumps(replaced(json.loads(path.read_text()), key, VALUES[sort])))
    return config.load(path.parents[config.file.count("/")]), expected


def same(pair: tuple[Any, Any]) -> bool:
    return pair[0] == pair[1]


def keys_of(name: str) -> Iterator[Kind]:
    config = CONFIGS[name]
    pairs = [(key, sort) for key in config.keys.split() for sort in VALUES if (key, sort) not in VALID]
    for key, sort in sorted(Random(name).sample(pairs, min(MOST_PER_FAMILY, len(pairs))), key=pairs.index):
        yield Kind(f"{key} is {sort}", partial(read_changed, config, key, sort), names_of(config, key), same)


def names_of(config: Config, key: str) -> tuple[str, str]:
    """Patterns of the file and the key, which an error must name."""
    last = key.removesuffix(".0").rpartition(".")[2]
    return (
        Path(config.file).name.replace(".", r"\."),
        rf"\b{last.removesuffix('s')}s?\b|do not fit|at line \d+ column",
    )


@family("keys: further options of task models")
def task_options() -> Iterator[Kind]:
    """The options of the constructors that `CONFIGS` does not name, so that no option is left out."""
    import tadp

    kinds = (tadp.TADPForSemanticSegmentation, tadp.TADPForDepthEstimation, tadp.TADPForObjectDetection)
    for task, kind in zip(("segmentation", "depth", "detection"), kinds, strict=True):
        named = CONFIGS[f"{task} model"].keys.split() if f"{task} model" in CONFIGS else []
        config = Config(task, "config.json", "", partial(predicted, task=task), "")
        for name in list(signature(kind).parameters)[1:]:  # the first is the backbone
            for sort in ("list", "object") if f"options.{name}" not in named else ():
                key = f"options.{name}"
                yield Kind(f"{task}, {key} is {sort}", partial(read_changed, config, key, sort), names_of(config, key))


for name in CONFIGS:
    family(f"keys: {name}")(partial(keys_of, name))

# Damage to the text of a JSON file.
TEXTS: dict[str, Callable[[str], bytes]] = {
    "list around it": lambda text: f"[{text}]".encode(),
    "only null": lambda text: b"null",
    "only a number": lambda text: b"12",
    "only text": lambda text: b'"config"',
    "empty object": lambda text: b"{}",
    "comma at the end": lambda text: text.rstrip()[:-1].encode() + b",}",
    "UTF-16": lambda text: text.encode("utf-16"),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "broken UTF-8": lambda text: text.encode().replace(b"{", b'{"\xff\xfe": 1, ', 1),
    "100,000 brackets": lambda text: b"[" * 100_000,
    "100,000 objects": lambda text: b'{"a":' * 100_000,
    "5,000 digits": lambda text: text.encode().replace(b"{", b'{"extra": ' + b"9" * 5000 + b", ", 1),
    "content after it": lambda text: text.encode() + b"{}",
    "comment": lambda text: b"// edited by hand\n" + text.encode(),
    "single quotes": lambda text: text.replace('"', "'").encode(),
}
FILES = ("U-Net", "VAE", "text encoder", "tokenizer", "backbone", "scheduler", "segmentation model", "modifier",
         "captioner", "captioner's processor")  # fmt: skip
SORTS = dict.fromkeys(TEXTS, "JSON text") | dict.fromkeys((*CONTENTS, *PLACES), "file")


def read_damaged(config: Config, sort: str, folder: Path, rng: Random) -> tuple[Any, Any]:
    """What the model returns with the damaged file, and what it returns without damage."""
    path = copy(config.fixture, folder) / config.file
    expected = reference(config.result) if config.result else config.load(path.parents[config.file.count("/")])
    if sort in TEXTS:
        path.write_bytes(TEXTS[sort](path.read_text()))
    else:
        damage(path, sort, rng)
    return config.load(path.parents[config.file.count("/")]), expected


def files_of(group: str, files: tuple[str, ...]) -> Iterator[Kind]:
    sorts = [sort for sort, own in SORTS.items() if own == group]
    for name in files:
        config = CONFIGS[name]
        names = Path(config.file).name.replace(".", r"\.")
        if (config.fixture, config.file) == ("modifier", "modifier.json"):
            names += "|modifier"
        for sort in sorts[: MOST_PER_FAMILY // len(files)]:
            yield Kind(f"{name}, {sort}", partial(read_damaged, config, sort), names, same)


for group in ("JSON text", "file"):
    for part, files in (("models", FILES[:4]), ("tadp's own", FILES[4:8]), ("captioners", FILES[8:])):
        family(f"config files: {group}, {part}")(partial(files_of, group, files))
