"""The captioner of `tadp-tiny`, a small BLIP: its architecture, the heads that train it, and its files."""

from pathlib import Path

import torch
import torch.nn.functional as F
from captioner_data import CELL, Batch
from captioner_text import MAX_WORDS
from einops import rearrange
from scenes_cache import SIZE
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    GenerationConfig,
)

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, COLORS, STYLES

PATCH = 16
VISION = {"hidden_size": 160, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 5}
TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
BACKGROUND_WEIGHT = 0.4  # most cells are background


class Heads(nn.Module):
    """Heads that train the vision tower and are discarded at the end."""

    def __init__(self, width: int):
        super().__init__()
        cells = (PATCH // CELL) ** 2
        self.classes = nn.Linear(width, cells * (len(CLASSES) + 1))
        self.colors = nn.Linear(width, cells * len(COLORS))
        self.present = nn.Linear(width, len(CLASSES))
        self.places = nn.Linear(width, len(BACKGROUNDS))
        self.styles = nn.Linear(width, len(STYLES))

    def forward(self, tokens: Tensor, batch: Batch) -> Tensor:
        """The sum of the losses on the tower's tokens, (B, 1 + patches, D), with the class token first."""
        whole, patches = tokens[:, 0], tokens[:, 1:]
        weight = torch.ones(len(CLASSES) + 1)
        weight[0] = BACKGROUND_WEIGHT
        return (
            2 * F.cross_entropy(_cells(self.classes(patches)).float(), batch.classes, weight)
            + 0.5 * F.cross_entropy(_cells(self.colors(patches)).float(), batch.colors)
            + 2 * F.binary_cross_entropy_with_logits(self.present(whole).float(), batch.present)
            + 0.2 * F.cross_entropy(self.places(whole).float(), batch.places)
            + 0.1 * F.cross_entropy(self.styles(whole).float(), batch.styles)
        )


def build_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """A BLIP of 2.3 million parameters with random weights."""
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    ids |= {"sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    # BlipVisionConfig's default initializer_range of 1e-10 only works for loading trained weights.
    vision = {"image_size": SIZE, "patch_size": PATCH, "initializer_range": 0.02, **VISION}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_WORDS, **ids, **TEXT}
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    model.generation_config = GenerationConfig(**{k: v for k, v in ids.items() if k != "sep_token_id"})
    position = model.vision_model.embeddings.position_embedding
    position.data[0, 1:] = _sincos(SIZE // PATCH, VISION["hidden_size"])
    return model


def save_captioner(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write the transformers layout: configs, tokenizer, image processor, weights in half precision."""
    image_processor = BlipImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.half().save_pretrained(folder)
    model.float().load_state_dict(state)


def _cells(logits: Tensor) -> Tensor:
    """(B, patches, K * cells of a patch) to (B, K, H / CELL, W / CELL)."""
    side, inner = SIZE // PATCH, PATCH // CELL
    return rearrange(logits, "b (y x) (k v u) -> b k (y v) (x u)", y=side, v=inner, u=inner)


def _sincos(side: int, width: int) -> Tensor:
    """Sine and cosine of row and column, (side * side, width), at the scale of new patch embeddings."""
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], dim=-1)
    return 0.2 * grid.flatten(0, 1)
