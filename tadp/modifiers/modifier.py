"""`CaptionModifier`: words around a caption, and the learned token or U-Net that they refer to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import ModifierError, UnknownModelError
from tadp.files.atomic import replace_folder
from tadp.files.hub import HubOptions, local_folder, path_of, read_json
from tadp.files.model_card import card_record, saved_record
from tadp.files.publishing import Pushable
from tadp.language.grammar import MAX_CHARACTERS, article_for, takes_article
from tadp.modifiers.caption_templates import (
    DREAMBOOTH_WORD,
    Kind,
    PaperDomain,
    fill_grammatically,
    fill_literally,
    paper_template,
)
from tadp.modifiers.installation import Installation, install
from tadp.modifiers.modifier_card import modifier_card
from tadp.modifiers.steps import CONFIG_NAME, Step, new_step, read_steps, write_steps
from tadp.text.encoder import check_captions
from tadp.text.learned_tokens import LearnedToken, check_token, learned_tokens

_PARTS = ("learned_embeds*.safetensors", "unet", LORA_NAME)  # of a saved modifier, besides its config


class CaptionModifier(Pushable):
    """Rewrites captions so that they name a target domain, and may change the model so that it knows the domain.

    The rewriting inserts each caption into a template. A modifier can also have a learned token or a tuned U-Net, which
    `install` adds to a backbone.

    A caption is inserted so that the result reads well. Only the words where caption and template meet are changed. The
    caption's first letter is lower-cased if its first word is known not to be a proper name
    (`tadp.language.grammar.lower_first`). A list marker before the caption ("- ", "20. ") is removed. The full stop at
    the caption's end is removed, too, if words of the template follow. An article in the template before the
    caption is removed or becomes "an", as the caption requires: "of a {caption}" becomes "of two dogs" or "of an owl"
    (`tadp.language.grammar.takes_article`). No article is added to a caption that has none.

    Args:
        template: The words around the caption, with the placeholder `{caption}` once or more. A literal brace is
            doubled, as in `str.format`. The default, "{caption}", only returns captions. Braces in captions do not
            change.
        token: A new word that `install` adds to the text encoder, and that the template or the captions contain; None
            for no new word.
        embedding: The token's vectors, (D,) or (N, D), where D is the width of the text encoder. A token with several
            vectors is still written once in a caption. With None, the backbone must already know the token.
        unet: A tuned U-Net that `install` puts in place of the backbone's U-Net; None keeps the backbone's.
        literal: Whether to insert captions unchanged.
        lora: The tensors of the LoRA that is merged into `unet`, under diffusers' names, which are saved with the
            modifier; None without a LoRA.

    Attributes:
        record: The entries of the model card, such as the base model, which are saved with the modifier.

    Raises:
        ModifierError: If the template has no `{caption}`, or the token or its embedding is invalid.

    Source:
        TADP Sec. 4.3, where the template is M(P)s, and the token and the U-Net are M(P)ε.

    Example:
        >>> CaptionModifier("a foggy photo of {caption}")(["Two dogs on a sled", "the sea"])
        ['a foggy photo of two dogs on a sled', 'a foggy photo of the sea']
    """

    def __init__(
        self,
        template: str = "{caption}",
        *,
        token: str | None = None,
        embedding: Float[Tensor, "*n d"] | None = None,
        unet: nn.Module | None = None,
        literal: bool = False,
        lora: Mapping[str, Tensor] | None = None,
    ):
        step = new_step(template, token=token, embedding=embedding, unet=unet, literal=literal)
        self._steps = (replace(step, lora=lora),)
        self.record: dict[str, Any] = {}

    @staticmethod
    def _of(steps: Sequence[Step]) -> "CaptionModifier":
        """A modifier made of several steps, after checking that they can be combined."""
        if sum(step.unet is not None for step in steps) > 1:
            raise ModifierError("a backbone has one U-Net, and more than one of these modifiers has its own.")
        taught = [step.token for step in steps if step.token is not None and step.vectors is not None]
        if len({token.lower() for token in taught}) < len(taught):
            raise ModifierError(
                f"two of these modifiers add the same token, of {', '.join(taught)}; rename one of them."
            )
        joined = CaptionModifier()
        joined._steps = tuple(steps)
        return joined

    @classmethod
    def style(cls, style: str, *, medium: str = "painting") -> "CaptionModifier":
        """Create a modifier that names a style in words: "a {style} {medium} of {caption}".

        Args:
            style: The style, such as "watercolor".
            medium: The kind of image, such as "painting" (the default); "" if the style already contains it, as in
                "pencil sketch". If the style ends in the medium, as in "oil painting", the medium is not repeated.

        Example:
            >>> CaptionModifier.style("watercolor")("a dog on a sled")
            ['a watercolor painting of a dog on a sled']
            >>> CaptionModifier.style("infrared", medium="photo")("two dogs")
            ['an infrared photo of two dogs']
            >>> CaptionModifier.style("pencil sketch", medium="")("a dog")
            ['a pencil sketch of a dog']
            >>> CaptionModifier.style("oil painting")("a dog")
            ['an oil painting of a dog']
        """
        if not isinstance(style, str):
            raise TypeError(f"a style must be a string, e.g. 'watercolor'; got {type(style).__name__}.")
        if medium and style.lower().split()[-1:] == [medium.lower()]:
            medium = ""
        words = " ".join(f"{style} {medium}".split()).replace("{", "{{").replace("}", "}}")
        if not words:
            raise ModifierError("a style must have at least one word; got none.")
        article = f"{article_for(words)} " if takes_article(words) else ""
        return cls(f"{article}{words} of {{caption}}")

    @classmethod
    def for_domain(
        cls,
        domain: PaperDomain,
        kind: Kind = "simple",
        *,
        literal: bool = False,
        token: str | None = None,
        embedding: Float[Tensor, "*n d"] | None = None,
        unet: nn.Module | None = None,
    ) -> "CaptionModifier":
        """Create one of the paper's modifiers for one of its target domains.

        Args:
            domain: The target domain: "watercolor" (Watercolor2k), "comic" (Comic2k), or "night" (Dark Zurich and
                Nighttime Driving).
            kind: Kind of modifier. "null" changes nothing. "simple" names the domain, "nearby" a similar domain, and
                "unrelated" another domain. "textual_inversion" has a learned token, and "dreambooth" a tuned U-Net.
            literal: Whether to use the strings of the paper's released code, which put "a " before every caption: "of a
                a dog".
            token: The learned token; None is the domain's name in brackets, such as "<watercolor>". For DreamBooth, the
                word that it tuned; None is "sks".
            embedding: Vectors of the learned token, (D,) or (N, D), for the kind "textual_inversion".
            unet: The U-Net that was tuned by DreamBooth, for the kind "dreambooth".

        Raises:
            ModifierError: If `domain` or `kind` is unknown, or an argument was passed that the kind does not take.

        Source:
            TADP Sec. 4.3, Tables 4 and 5. For watercolors, "simple" is "a watercolor painting of", as in the released
            code and in the example of Sec. 4.3. The paper's text also has "a X style painting of", which the code only
            uses for comics.

        Example:
            >>> CaptionModifier.for_domain("comic")("a dog")
            ['a comic style painting of a dog']
            >>> CaptionModifier.for_domain("watercolor", literal=True)("a dog")
            ['a watercolor painting of a a dog']
        """
        inverted, tuned = kind == "textual_inversion", kind == "dreambooth"
        for argument, value, allowed in (
            ("token", token, inverted or tuned),
            ("embedding", embedding, inverted),
            ("unet", unet, tuned),
        ):
            if value is not None and not allowed:
                raise ModifierError(f"the modifier {kind!r} takes no {argument}; pass it to CaptionModifier itself.")
        if token is not None:
            check_token(token)
        name = token or (DREAMBOOTH_WORD if tuned else f"<{domain}>")
        template = paper_template(domain, kind, token=name, literal=literal)
        return cls(template, token=name if inverted else None, embedding=embedding, unet=unet, literal=literal)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> "CaptionModifier":
        """Load a modifier from a folder that `save_pretrained` wrote, or from the hub.

        Args:
            name: The folder, or the id of a repository on the hub.
            dtype: Dtype of the U-Net, if the modifier has one; None is float32.
            revision: Branch, tag or commit of the repository; None is its default branch.
            local_files_only: Whether to use only files on this machine and never connect to the hub.
            cache_dir: Folder for downloads; None is huggingface_hub's own cache.
            token: Access token for gated and private repositories; None is the token that `hf auth login` stored.

        Raises:
            UnknownModelError: If there is no such folder or repository.
            MissingFileError: If a file of the modifier is missing.
            CorruptFileError: If a file of the modifier is damaged.
        """
        known = "Pass a folder that CaptionModifier.save_pretrained wrote, or a hub id."
        if path_of(name, known).is_file():
            raise UnknownModelError(
                f"{name} is a file; a modifier is a folder that save_pretrained wrote. If it is a learned token, make "
                f"a modifier of it: token, vectors = tadp.convert.read_token({str(name)!r}), and then "
                "CaptionModifier(f'a {token} painting of {{caption}}', token=token, embedding=vectors)."
            )
        folder = local_folder(
            name,
            patterns=[CONFIG_NAME, "*.safetensors", "unet/config.json", "unet/*.safetensors", "unet/*.index.json"],
            known=known,
            hub=HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only),
        )
        modifier = cls._of(read_steps(folder, dtype=dtype or torch.float32))
        modifier.record = saved_record(read_json(folder / CONFIG_NAME), folder / CONFIG_NAME)
        return modifier

    @property
    def templates(self) -> tuple[str, ...]:
        """The template of each step, in the order in which they are applied."""
        return tuple(step.template for step in self._steps)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The learned tokens that captions may use."""
        return tuple(step.token for step in self._steps if step.token is not None)

    @property
    def brings_unet(self) -> bool:
        """Whether `install` replaces the backbone's U-Net."""
        return any(step.unet is not None for step in self._steps)

    def __repr__(self) -> str:
        parts = []
        for step in self._steps:
            extra = "" if step.token is None else f", token={step.token!r}"
            extra += "" if step.vectors is None else f", embedding={tuple(step.vectors.shape)}"
            extra += "" if step.unet is None else f", unet={type(step.unet).__name__}"
            parts.append(f"CaptionModifier({step.template!r}{extra}{', literal=True' if step.literal else ''})")
        return " | ".join(parts)

    def __call__(self, captions: str | Sequence[str]) -> list[str]:
        """Return the rewritten captions, one per caption; an empty list for an empty list.

        An empty caption becomes the words of the template without the caption, such as "a watercolor painting".

        Raises:
            TypeError: If a caption is not a string.
            ModifierError: If a rewritten caption is far too long, as when templates repeat the caption many times.
        """
        if not isinstance(captions, str) and isinstance(captions, Sequence) and not captions:
            return []
        texts = check_captions(captions)
        for step in self._steps:
            fill = fill_literally if step.literal else fill_grammatically
            texts = [fill(step.template, text) for text in texts]
            if (longest := max(map(len, texts))) > MAX_CHARACTERS:
                raise ModifierError(
                    f"{step.template[:60]!r} makes a caption of {longest} characters; at most {MAX_CHARACTERS} are "
                    "allowed. Use a shorter template, or one that has {caption} once."
                )
        return texts

    def then(self, *others: "CaptionModifier") -> "CaptionModifier":
        """Return a modifier that applies this modifier and then the others in order; `a | b` is `a.then(b)`.

        Raises:
            ModifierError: If two of the modifiers have a U-Net, or the same token.

        Example:
            >>> both = CaptionModifier("{caption} in the rain") | CaptionModifier.style("watercolor")
            >>> both("a dog")
            ['a watercolor painting of a dog in the rain']
        """
        return self._of([*self._steps, *(step for other in others for step in other._steps)])

    def __or__(self, other: "CaptionModifier") -> "CaptionModifier":
        return self.then(other) if isinstance(other, CaptionModifier) else NotImplemented

    def install(self, backbone: TADPBackbone) -> Installation:
        """Add the modifier's learned tokens to a backbone, and replace the backbone's U-Net by a copy of the
        modifier's.

        If the modifier has no token or no U-Net, that part of the backbone does not change. If a part cannot be
        installed, nothing is changed. The copy of the U-Net has the backbone's device and dtype, and training it does
        not change the modifier. Install a modifier before you build an optimizer, because the parameters of the U-Net
        are new.

        Returns:
            The installation. `undo()` reverts it, and so does the end of a `with` block.

        Raises:
            ModifierError: If a token is already in the vocabulary, if its vectors have another width than the text
                encoder, if it has no vectors and the backbone does not know it, or if the modifier's U-Net has another
                shape than the backbone's.

        Example:
            >>> import tadp
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
            >>> vectors = torch.zeros(2, backbone.text_encoder.width)
            >>> modifier = CaptionModifier("a <toy> style scene of {caption}", token="<toy>", embedding=vectors)
            >>> with modifier.install(backbone):
            ...     [word.text for word in backbone.encode_text(modifier("a dog")).words[0]]
            ['a', '<toy>', 'style', 'scene', 'of', 'a', 'dog']
        """
        learned = [
            LearnedToken(step.token, step.vectors) for step in self._steps if step.token and step.vectors is not None
        ]
        known = {token.lower() for token, _ in learned}
        if backbone.text_encoder is not None:
            known |= set(learned_tokens(backbone.text_encoder.tokenizer))
        for token in self.tokens:
            if token.lower() not in known:
                raise ModifierError(
                    f"the token {token!r} has no embedding, and this backbone does not know it; pass embedding=, e.g. "
                    "the vectors of tadp.convert.read_token(path)."
                )
        unets = [step.unet for step in self._steps if step.unet is not None]
        return install(backbone, learned, unets[0] if unets else None)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the modifier to a folder: JSON, and the learned tokens and the U-Net in diffusers' formats.

        If DreamBooth trained a LoRA, the folder gets it as well, as pytorch_lora_weights.safetensors.

        Raises:
            OutputError: If the folder cannot be written; its old contents are kept.
        """
        with replace_folder(Path(folder), parts=_PARTS) as part:
            write_steps(part, self._steps, self.record)

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the modifier's repository; see `push_to_hub`."""
        self.record |= card_record(entries)
        return modifier_card(self._steps, self.record, example=self(["a dog on grass"])[0])
