"""Check the configs of tokenizers, processors and text generation before transformers reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tadp.errors import ModelError
from tadp.files.building import explained, numbers_in, objects_in
from tadp.files.hub import read_json
from tadp.files.schema import HINT, check_types, shown

# The most that a processor may make of one image: pixels per side, tokens, and pixels.
_SIDE, _TOKENS, _PIXELS = 4096, 2**16, 2**25
# The least and most that a generation_config.json may ask for. Known models stay far within.
_GENERATION = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1, 64)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0, 64)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (0.1, 10)),
    **dict.fromkeys(("length_penalty",), (-10, 10)),
    **dict.fromkeys(("min_length", "min_new_tokens"), (0, 512)),
}
_LONGEST_PATTERN, _LONGEST_CONTENT = 4000, 100  # characters
_SPECIAL = re.compile(r"(bos|eos|pad|cls|sep|mask)_token")


def check_processor(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a config of a tokenizer or processor with which images or texts would be wrong or too large.

    Raises:
        ModelError: If an entry has a wrong type, a side or a number is too large, pixels would be scaled to numbers
            that no model was trained with, or a special token is empty.
    """
    for names, part in [((), config), *objects_in(config)]:
        if "added_tokens_decoder" in names:  # thousands of them
            continue
        if "merge_size" in part:  # the family of Qwen2-VL
            check_types(part, _patch_entries, path, below=".".join(names))
        check_types(part, _reader_entries, path, below=".".join(names))
        if "width" in part and (part["width"] is None) != (part.get("height") is None):
            side = "width" if part["width"] is None else "height"
            raise ModelError(f"{path}: {'.'.join((*names, side))} must be a whole number; got None. {HINT}")
        _check_pixels(part, path, names)
        for key, value in part.items():
            if _SPECIAL.fullmatch(key) and "" in (value, value.get("content") if isinstance(value, Mapping) else None):
                raise ModelError(f"{path}: {'.'.join((*names, key))} must not be empty. {HINT}")
    # The family of Qwen2-VL limits pixels, not sides.
    counts_pixels = any("merge_size" in part for part in (config, *(part for _, part in objects_in(config))))
    for names, number in numbers_in(config, path):
        name = ".".join(names)
        if name.endswith("model_max_length"):  # 1e30 if there is no limit
            continue
        is_side = re.search(r"(height|width|edge|size)$", name) and not (counts_pixels and name.endswith("edge"))
        most = _SIDE if is_side else _TOKENS if re.search(r"(tokens?|len|length|num_\w+)$", name) else _PIXELS
        least = 1 if re.search(r"(height|width|edge|size|_pixels)$", name) else 0
        if number > most or (least and number < least):
            raise ModelError(f"{path}: {name} must be from {least} to {most}; got {shown(number)}. {HINT}")


def _check_pixels(part: Mapping[str, Any], path: Path, names: tuple[str, ...]) -> None:
    """Refuse a scale of pixels that no model was trained with: they are in [0, 255], and rescaled mostly in [0, 1]."""
    most = 1 if part.get("do_rescale", True) else 255
    for key, last in (("rescale_factor", 1), ("image_std", most), ("image_mean", most)):
        value = part.get(key)
        for number in value if isinstance(value, list) else [] if value is None else [value]:
            if not 0 <= number <= last or (number == 0 and key != "image_mean"):
                least = "0" if key == "image_mean" else "above 0"
                name = ".".join((*names, key))
                raise ModelError(f"{path}: {name} must be from {least} to {last}; got {shown(value)}. {HINT}")


def check_vocabulary(path: Path) -> None:
    """Refuse a tokenizer.json with entries that its library cannot read, or that take long.

    Raises:
        ModelError: If an entry has a wrong type, or a regular expression could take very long.
    """
    content = read_json(path)
    check_types(content, _vocabulary_entries, path)
    check_types(content.get("model", {}), _vocabulary_model_entries, path, below="model")
    check_patterns(content, path)
    with explained(path, {}, what="a tokenizer"):
        from tokenizers import Tokenizer

        Tokenizer.from_file(str(path))


def check_patterns(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a tokenizer whose regular expressions could take very long, or that makes texts much longer.

    Args:
        content: The content of a tokenizer.json.
        path: The file, for error messages.

    Raises:
        ModelError: If it has such an expression or such a text.
    """
    waiting = [content.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            pattern = value.get("Regex", "")
            if not isinstance(pattern, str) or is_slow(pattern):
                raise ModelError(f"{path}: the regular expression {shown(pattern)} could take very long. {HINT}")
            for key in ("content", "prepend"):
                if len(str(value.get(key, ""))) > _LONGEST_CONTENT:
                    raise ModelError(f"{path}: {key} would make texts much longer: {shown(value[key])}. {HINT}")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def is_slow(pattern: str) -> bool:
    r"""Whether the time of a regular expression could grow steeply with the length of the text, by backtracking.

    It could if it repeats a group whose own length varies, refers back to a group, or has many repetitions in a row.

    Example:
        >>> is_slow(r"'s|[\p{L}]+|[^\s\p{L}]+"), is_slow(r"(\w+)*x")
        (False, True)
    """
    if len(pattern) > _LONGEST_PATTERN or re.search(r"\\[1-9kg]|\(\?[(R&]", pattern):
        return True
    text = re.sub(r"\\(?:[pP]\{[^}]*\}|.)", "x", pattern)  # an escape is one character
    for brackets in (r"\[\^?[^\[\]]*\]", r"\((?:\?(?:<?[=!]|<\w+>|[>\w-]*:|>))?([^()]*)\)([*+?]|\{[\d,]*\})?[+?]?"):
        while match := re.search(brackets, text):  # the innermost
            replacement = "x"
            if match.re.groups:
                body, times = match.groups()
                varies = re.search(r"[*+?|]|\{\d*,", body)
                if times not in (None, "?") and varies:
                    return True
                replacement = max(body.split("|"), key=_repetitions) + (times or "")
            text = text[: match.start()] + replacement + text[match.end() :]
    return bool(set("[]()") & set(text)) or any(_repetitions(part) > 6 for part in text.split("|"))


def _repetitions(part: str) -> int:
    """The number of repetitions in a row, of which one without an end counts as two."""
    return 2 * len(re.findall(r"(?:[*+]|\{\d*,\d*\})[+?]?", part)) + len(re.findall(r"(?<![*+}?])\?", part))


def check_generation(folder: Path) -> None:
    """Refuse a generation_config.json that transformers cannot use, or that asks for many beams or answers.

    Raises:
        ModelError: If an entry has a wrong type or is out of range.
    """
    path = folder / "generation_config.json"
    content = read_json(path) if path.exists() else {}
    check_types(content, _generation_entries, path)
    for name, (least, most) in _GENERATION.items():
        number = content.get(name)
        if number is not None and not least <= number <= most:
            raise ModelError(f"{path}: {name} must be from {least} to {most}; got {shown(number)}. {HINT}")
    from transformers import GenerationConfig

    def make(values: Mapping[str, Any]) -> Any:
        return GenerationConfig.from_dict(dict(values))

    with explained(path, content, what="how texts are written", attempt=make):
        make(content)


def _generation_entries(
    *,
    bos_token_id: int | None,
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
    decoder_start_token_id: int | list[int] | None,
    forced_bos_token_id: int | None,
    forced_eos_token_id: int | list[int] | None,
    suppress_tokens: list[int] | None,
    begin_suppress_tokens: list[int] | None,
    bad_words_ids: list[list[int]] | None,
    max_length: int | None,
    max_new_tokens: int | None,
    min_length: int | None,
    min_new_tokens: int | None,
    max_time: None,  # captions would depend on the speed of the machine
    do_sample: bool | None,
    num_beams: int | None,
    num_beam_groups: int | None,
    num_return_sequences: int | None,
    use_cache: bool | None,
    cache_implementation: str | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float | None,
    encoder_repetition_penalty: float | None,
    length_penalty: float | None,
    no_repeat_ngram_size: int | None,
    encoder_no_repeat_ngram_size: int | None,
    remove_invalid_values: bool | None,
    guidance_scale: float | None,
    output_attentions: bool | None,
    output_hidden_states: bool | None,
) -> None:
    """The entries of a generation_config.json that change texts, as a schema."""


def _reader_entries(
    *,
    model_max_length: float | None,
    tokenizer_class: str | None,
    processor_class: str | None,
    image_processor: Mapping | None,
    video_processor: Mapping | None,
    image_processor_type: str | None,
    height: int | None,
    width: int | None,
    shortest_edge: int | None,
    longest_edge: int | None,
    bos_token: str | Mapping | None,
    eos_token: str | Mapping | None,
    unk_token: str | Mapping | None,
    pad_token: str | Mapping | None,
    sep_token: str | Mapping | None,
    cls_token: str | Mapping | None,
    mask_token: str | Mapping | None,
    added_tokens_decoder: Mapping | None,
    padding_side: Literal["left", "right"] | None,
    truncation_side: Literal["left", "right"] | None,
    add_prefix_space: bool | None,
    clean_up_tokenization_spaces: bool | None,
    do_lower_case: bool | None,
    do_resize: bool | None,
    do_rescale: bool | None,
    do_normalize: bool | None,
    do_center_crop: bool | None,
    do_convert_rgb: bool | None,
    do_pad: bool | None,
    pad_size: int | Mapping | list[int] | None,
    size_divisor: int | None,
    rescale_factor: float | None,
    resample: int | None,
    image_mean: float | list[float] | None,
    image_std: float | list[float] | None,
    size: int | Mapping | list[int] | None,
    crop_size: int | Mapping | list[int] | None,
    patch_size: int | Mapping | list[int] | None,
    vision_feature_select_strategy: str | None,
    num_additional_image_tokens: int | None,
) -> None:
    """The entries of tokenizers and processors that are read, as a schema."""


def _patch_entries(*, patch_size: int | None, temporal_patch_size: int | None, merge_size: int | None) -> None:
    """The entries of an image processor that cuts images into patches of any number, as a schema."""


def _vocabulary_entries(
    *,
    version: str,
    truncation: Mapping | None,
    padding: Mapping | None,
    added_tokens: list[Mapping],
    normalizer: Mapping | None,
    pre_tokenizer: Mapping | None,
    post_processor: Mapping | None,
    decoder: Mapping | None,
    model: Mapping,
) -> None:
    """The entries of a tokenizer.json, as a schema."""


def _vocabulary_model_entries(
    *,
    type: str,
    vocab: Mapping | list,
    merges: list,
    unk_token: str | None,
    unk_id: int | None,
    end_of_word_suffix: str | None,
    continuing_subword_prefix: str | None,
) -> None:
    """The entries of the model in a tokenizer.json, as a schema."""
