"""Small random captioners, saved in the same layout as the models on the hub.

For BLIP and BLIP-2, the seeds and the spread of the weights are chosen so that most images get a caption that is
neither empty nor repetitive.
"""

import json
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("a", "an", "and", "on", "photo", "of", "red", "blue", "dog", "cat", "car", "grass", "tree", ",", ".", "describe"),
    *(":", "beach", "big", "bird", "black", "boat", "brown", "bus", "comic", "dark", "desert", "dotted", "else", "far"),
    *("faces", "fish", "flower", "forest", "gray", "green", "house", "left", "medium", "middle", "near", "next"),
    *("night", "nothing", "orange", "painting", "person", "picture", "pink", "plain", "plane", "purple", "rest"),
    *("right", "room", "small", "snow", "street", "style", "the", "there", "thing", "water", "white", "with", "yellow"),
)  # also one token each for tadp-tiny; enough words that random weights seldom repeat themselves
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}: {% endif %}"
)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
}
WIDE = 0.6  # standard deviation of the random weights, large enough that different images get different words


def build_blip(folder: Path, *, seed: int = 1) -> Path:
    """A BLIP whose decoder repeats the prompt, as the real one does."""
    tokenizer = _tokenizer()
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 96, "initializer_range": 0.08, **ids}
    vision = {"patch_size": 8, "initializer_range": 0.1, **VISION}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build_blip2(folder: Path, *, seed: int = 0) -> Path:
    """A BLIP-2 with OPT. Its processor adds the image tokens, and its output repeats the image and prompt tokens."""
    tokenizer = _tokenizer()
    image_processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=4)
    qformer = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    qformer |= {"encoder_hidden_size": 32, "vocab_size": 32, "initializer_range": 0.2}
    text = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "init_std": 1.0}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "dropout": 0.0}
    config = Blip2Config(
        vision_config={"patch_size": 8, "initializer_range": 0.1, **VISION},
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Blip2ForConditionalGeneration(config)
        torch.nn.init.normal_(model.query_tokens)
        torch.nn.init.normal_(model.language_projection.weight, std=2.0)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build_llava(folder: Path, *, seed: int = 0) -> Path:
    """A decoder-only model that is prompted through a chat template."""
    tokenizer = _tokenizer("<image>")
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=WIDE,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    vision = CLIPVisionConfig(patch_size=8, projection_dim=32, **VISION)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token, image_seq_length=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build_qwen2_vl(folder: Path, *, seed: int = 0) -> Path:
    """A decoder-only model that turns larger images into more tokens and whose processor also accepts videos.

    The processor's files are written one at a time, because `Qwen2VLProcessor` itself needs torchvision.
    """
    marks = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    words = _tokenizer(*marks)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        pad_token="[PAD]",
        eos_token="[SEP]",
        extra_special_tokens=["[UNK]", "[CLS]", *marks],
        model_input_names=["input_ids", "attention_mask"],
    )
    start, image, end, video = tokenizer.convert_tokens_to_ids(list(marks))
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    text |= {"initializer_range": WIDE, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}  # areas in pixels, which give 1 to 9 tokens per image
    Qwen2VLImageProcessorPil(size=pixels, patch_size=8, merge_size=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    model.save_pretrained(folder)
    return folder


def _tokenizer(*added: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = BertTokenizer(vocab=vocabulary)
    tokenizer.add_tokens(list(added), special_tokens=True)
    return tokenizer
