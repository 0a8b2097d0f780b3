"""The last step of a call: attach attention to the maps, and name its tokens and words."""

from torch import Tensor

from tadp.backbone.options import BackboneOptions
from tadp.backbone.text_source import never_compiled
from tadp.diffusion.attention import attach_attention
from tadp.features import AttentionMaps, Features, cells_of
from tadp.text.conditioning import Conditioning


def join(
    maps: dict[int, Tensor],
    attention: dict[int, Tensor],
    text: Conditioning,
    size: tuple[int, int],
    strides: tuple[int, ...],
    options: BackboneOptions,
) -> Features:
    """Attach attention to the maps and name its tokens and words.

    Args:
        maps: The map of each level that was computed, by level, finest first.
        attention: The recorded attention, by level.
        text: The encoded text: one text for all images, or one per image.
        size: (height, width) of the images in pixels.
        strides: The stride of each level of the model in pixels.
        options: The backbone's options.
    """
    levels = tuple(maps)
    text, size = text.expand(len(maps[levels[0]])), (int(size[0]), int(size[1]))
    batch, length, _ = text.embeddings.shape
    head_maps = {}
    if options.record_heads:
        head_maps = {level: maps[:, length:].unflatten(1, (-1, length)) for level, maps in attention.items()}
        attention = {level: maps[:, :length] for level, maps in attention.items()}
    tokens = text.tokens or (("",) * length,) * batch
    cells = cells_of(size, strides)
    named = AttentionMaps(attention, tokens, text.words, head_maps, cells)
    for level in options.attach_attention:
        if level not in maps:
            continue
        channels = named.at(level)
        if options.pool_attention:
            channels = named.pool(options.pool_attention, level, synonyms=options.pool_synonyms).maps
        maps = maps | {level: attach_attention(maps[level], channels, detach=options.detach_attention)}
    features = tuple(maps[level] for level in levels)
    return Features(features, named if attention else None, size, levels=levels, cells=cells)


join_uncompiled = never_compiled(join)  # otherwise each new caption would compile again
