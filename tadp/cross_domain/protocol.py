"""The protocol: the captions that a model is trained with, and those that it is tested with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from tqdm import tqdm

from tadp.backbone import TADPBackbone
from tadp.cleaning import Cleaner
from tadp.cleaning.cleaner import warn_about_failures
from tadp.cross_domain.views import Recaptioned, Unlabelled, UnlabelledImage
from tadp.datasets.transforms.augmented import SampleSource
from tadp.errors import CaptionError, ModifierError
from tadp.modifiers import CaptionModifier, Installation, Kind, PaperDomain


@dataclass(frozen=True)
class Protocol:
    """The paper's cross-domain protocol: how captions change in training and in testing.

    The source is the domain with labels, on which a model is trained. The target is the domain that it should work on.
    In training, a modifier makes the captions of the source name the target domain. In testing, captions of the target
    are first cleaned of words about the domain, and then the same modifier is applied. No label of the target is used:
    cleaning only receives captions.

    Attributes:
        modifier: The modifier that names the target domain. The default changes nothing, which the paper calls null.
        cleaner: The cleaner that removes what captions of the target already say about the domain. With None, captions
            are not cleaned, and may name the domain in other words than the modifier.

    Source:
        TADP Sec. 4.3, which cleans with GPT-3.5.

    Example:
        >>> from tadp.cleaning import RuleCleaner
        >>> from tadp.datasets import RenderedScenes
        >>> protocol = Protocol(CaptionModifier("a sketch of {caption}"), cleaner=RuleCleaner("comic"))
        >>> protocol.source(RenderedScenes(10, seed=1))[3].caption
        'a sketch of a red person and a purple tree in a desert'
        >>> comics = RenderedScenes(10, seed=1, style="comic")
        >>> comics[3].caption, protocol.target(comics)[3].caption
        ('a comic style painting of a red person and a purple tree in a desert', \
'a sketch of a red person and a purple tree in a desert')
    """

    modifier: CaptionModifier = field(default_factory=CaptionModifier)
    cleaner: Cleaner | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.modifier, CaptionModifier):
            raise TypeError(
                f"modifier must be a CaptionModifier; got {self.modifier!r}. CaptionModifier() changes nothing."
            )
        if isinstance(self.cleaner, str):
            raise TypeError(f"cleaner must be a Cleaner; got {self.cleaner!r}. Pass RuleCleaner({self.cleaner!r}).")

    def source(self, data: SampleSource) -> Recaptioned:
        """The source domain, to train on: each caption is modified."""
        return Recaptioned(data, self.modifier)

    def target(
        self, data: SampleSource, *, captions: Mapping[str, str] | None = None, progress: bool = False
    ) -> Recaptioned:
        """Return a data set of the target domain, to test on, with captions that are cleaned and then modified.

        Args:
            data: The data set. Its labels stay available for the evaluation, but are not read here.
            captions: A `CaptionTable` or another mapping from image id to caption. None uses the samples' own captions,
                for which every image is read once.
            progress: Whether to show a progress bar.

        Returns:
            The data set with the new captions. Its `report` lists what was cleaned.

        Raises:
            CaptionError: If an image has no caption.
            TypeError: If `captions` is not a mapping from image id to caption.
        """
        if captions is not None and not isinstance(captions, Mapping):
            raise TypeError(
                f"captions must be given by image id, such as a CaptionTable or {{'image-1': 'a dog'}}; got "
                f"{type(captions).__name__}. Open a caption file with CaptionTable.open(path)."
            )
        if self.cleaner is None:
            return Recaptioned(data, self.modifier, captions=captions)
        if captions is None:
            images = tqdm(Unlabelled(data), desc="reading captions", total=len(data), disable=not progress)
            captions = {image.image_id: _caption_of(image) for image in images}
        ids = list(captions)
        report = self.cleaner.clean([captions[image_id] for image_id in ids], progress=progress)
        warn_about_failures(report)
        cleaned = dict(zip(ids, report.after, strict=True))
        return Recaptioned(data, self.modifier, captions=cleaned, report=report)

    def installed(self, backbone: TADPBackbone) -> Installation:
        """Install the modifier's learned token and tuned U-Net, if it has any, for the duration of a `with` block.

        Build the task model inside the block, because a modifier with a U-Net replaces the backbone's parameters.

        Raises:
            ModifierError: If the modifier does not fit the backbone; see `CaptionModifier.install`.
        """
        return self.modifier.install(backbone)


def six_modifiers(
    domain: PaperDomain, *, inverted: CaptionModifier | None = None, tuned: CaptionModifier | None = None
) -> dict[Kind, CaptionModifier]:
    """Return the paper's six modifiers for one of its target domains, by name and in the order of the paper's tables.

    Args:
        domain: The target domain: "watercolor", "comic" or "night".
        inverted: The modifier that `learn_token` returned. Without it, the result has no "textual_inversion".
        tuned: The modifier that `dreambooth` returned. Without it, the result has no "dreambooth".

    Raises:
        ModifierError: If `domain` is unknown, `inverted` has no learned token, or `tuned` has no U-Net.

    Source:
        TADP Tables 4 and 5.

    Example:
        >>> for kind, modifier in six_modifiers("night").items():
        ...     print(kind, modifier(["a dog"]))
        null ['a dog']
        simple ['a dark night photo of a dog']
        nearby ['a foggy photo of a dog']
        unrelated ['a watercolor painting of a dog']
    """
    if inverted is not None and not inverted.tokens:
        raise ModifierError(f"inverted must be a modifier with a token, as learn_token returns; got {inverted!r}.")
    if tuned is not None and not tuned.brings_unet:
        raise ModifierError(f"tuned must be a modifier with a U-Net, as dreambooth returns; got {tuned!r}.")
    learned = {"textual_inversion": inverted, "dreambooth": tuned}
    order = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")
    six: dict[Kind, CaptionModifier] = {}
    for kind in sorted(get_args(Kind), key=order.index):
        modifier = learned[kind] if kind in learned else CaptionModifier.for_domain(domain, kind)
        if modifier is not None:
            six[kind] = modifier
    return six


def _caption_of(image: UnlabelledImage) -> str:
    if image.caption is None:
        raise CaptionError(
            f"image {image.image_id!r} has no caption to clean; open its data set with captions=, a table filled by a "
            "captioner."
        )
    return image.caption
