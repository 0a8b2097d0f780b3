"""What the three task models share: their text, what of the U-Net trains, and how they are kept."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from tadp import prompts
from tadp.backbone import TADPBackbone, Text
from tadp.backbone.text_source import CaptionFunction
from tadp.datasets.sample import Sample
from tadp.errors import CaptionError, ModelError
from tadp.features import Features
from tadp.files.atomic import replace_folder
from tadp.files.checks import check_choice
from tadp.files.hub import HubOptions
from tadp.heads.maps import autocasts
from tadp.images.reading import ImageLike
from tadp.tasks.card import card_record, model_card
from tadp.tasks.lora_training import add_lora, has_lora, lora_rank_of
from tadp.tasks.task_files import find_task, load_backbone, load_weights, read_config, save_task
from tadp.text.conditioning import Conditioning
from tadp.training.parameter_groups import decay_groups

PromptMode = Literal["captions", "class_names", "class_embeddings", "averaged_eos", "null", "stored"]
PROMPT_MODES: tuple[PromptMode, ...] = get_args(PromptMode)
Tune = Literal["all", "lora", "nothing"]
Model = TypeVar("Model", bound="TaskModel")


class TaskModel(nn.Module, ModelHubMixin, library_name="tadp", tags=["tadp", "diffusion-backbone"]):
    """A backbone, a head, and the text they were trained with. Use one of its subclasses.

    Args:
        backbone: Its `feature_info` must be that of the head.
        head: Takes `Features`.
        prompt_mode: The text: "captions" (given, or an attached captioner's), or one for all images: "class_names",
            "class_embeddings", "averaged_eos" (see `tadp.prompts`), "null", the empty prompt, or "stored", embeddings
            that `store_text` gives it and that are kept with the model, as converted files of others have them.
        prompt_classes: The names for the three modes that need them.
        tune: What of the U-Net trains: "all", a "lora" of attention (extra `train`), or "nothing". What trains is
            saved, what does not is loaded from its source again.
        lora_rank: Of a LoRA.

    Raises:
        ValueError: If an option is unknown, or a mode lacks its classes.
        ModelError: If the backbone counts another number of tokens than the mode's text has.
    """

    def __init__(
        self,
        backbone: TADPBackbone,
        head: nn.Module,
        *,
        prompt_mode: PromptMode,
        prompt_classes: Sequence[str],
        tune: Tune,
        lora_rank: int,
    ):
        super().__init__()
        check_choice(tune, get_args(Tune), name="tune")
        self.backbone = backbone
        self.head = head.to(backbone.device)
        self.prompt_mode = prompt_mode
        self.prompt_classes = tuple(prompt_classes)
        self.lora_rank = lora_rank
        self.captioner_name: str | None = None
        self.record: dict[str, Any] = {}
        self._fixed_text = _fixed_text(prompt_mode, self.prompt_classes, backbone)
        _check_lora(backbone, tune, lora_rank)
        if tune == "lora" and not has_lora(backbone.unet):
            add_lora(backbone.unet, backbone.layout, rank=lora_rank)
        elif tune == "nothing":
            backbone.freeze()
        elif tune == "all":
            backbone.unfreeze()

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the constructor takes besides the backbone, as saved with the model."""

    @abstractmethod
    def predict(self, image: ImageLike, caption: str | Conditioning | None = None) -> Any:
        """What the model says of one image, in the image's own size."""

    @abstractmethod
    def make_metric(self) -> Any:
        """A new metric of the model's task, with the paper's settings."""

    @abstractmethod
    def score(self, metric: Any, result: Any, sample: Sample) -> None:
        """Count one result of `predict` in a metric of the model's task.

        Args:
            metric: From `make_metric`, or another one that takes the same predictions and labels.
            result: What `predict` returned for the sample's image.
            sample: The image with its labels.

        Raises:
            ValueError: If the sample has no labels of the model's task.
        """

    @property
    def tuned(self) -> Tune:
        """What of the U-Net is the model's own: "all" of it, a "lora", or "nothing"."""
        if has_lora(self.backbone.unet):
            return "lora"
        return "all" if any(p.requires_grad for p in self.backbone.unet.parameters()) else "nothing"

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.backbone.device

    @property
    def captioner(self) -> CaptionFunction | None:
        """The captioner that is attached to the backbone, which `predict` asks where no caption is given."""
        return self.backbone.captioner

    def attach_captioner(self: Model, captioner: CaptionFunction | str | None = None, **options: Any) -> Model:
        """Attach a captioner to the backbone, so that `predict` describes images by itself.

        Args:
            captioner: A captioner, or the name of one; None is the one that this model was trained with.
            **options: Options of `Captioner.from_pretrained`, if a name is given.

        Raises:
            ModelError: If the model does not know its captioner's name, or takes no captions.
            UnknownModelError: If there is no such captioner.
        """
        if self.prompt_mode != "captions":
            raise ModelError(
                f"this model's text is {self.prompt_mode!r}, the same for all images; it takes no captions."
            )
        captioner = self.captioner_name if captioner is None else captioner
        if captioner is None:
            raise ModelError("this model does not know its captioner; pass one, or its name such as 'tadp-tiny'.")
        self.backbone.attach_captioner(captioner, **options)
        self.captioner_name = getattr(self.captioner, "name", self.captioner_name)  # a function has no name to keep
        return self

    @property
    def stored_text(self) -> Conditioning | None:
        """What `store_text` gave a model whose prompt mode is "stored"; None in other modes.

        Raises:
            ModelError: If it has no text yet.
        """
        if self.prompt_mode == "stored" and self._fixed_text is None:
            raise ModelError("this model has no text yet; call model.store_text(conditioning) once.")
        return self._fixed_text if self.prompt_mode == "stored" else None

    def store_text(self, text: Conditioning) -> None:
        """Give a model whose prompt mode is "stored" its text: (1, L, D), for all images, saved with the model.

        Raises:
            ModelError: If the mode is another.
            ValueError: If there is more than one text.
        """
        if self.prompt_mode != "stored":
            raise ModelError(f"this model's text is {self.prompt_mode!r}; build it with prompt_mode='stored'.")
        if len(text) != 1:
            raise ValueError(f"a stored text is one for all images, (1, L, D); got {tuple(text.embeddings.shape)}.")
        self._fixed_text = text.to(self.device)

    def features(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        *,
        latents: Float[Tensor, "b c h w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Features:
        """What the head sees.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads; None if latents are given.
            text: One caption an image, one for all, or `Conditioning`. None: the mode's own text; for captions, what
                the backbone takes by itself. What is over the text encoder's limit is cut, with a warning: a long
                caption among many does not stop a training.
            latents: A cache of `backbone.encode_image`, in place of images.
            image_size: (height, width) of the images the latents came from; by default the latents' own.
        """
        text = (self.stored_text or self._fixed_text) if text is None else text
        if latents is not None:
            made = self.backbone.extract(latents, text, image_size=image_size, truncate=True)
        elif images is not None:
            made = self.backbone(images, text, truncate=True)
        else:
            raise ValueError("pass images, or latents of them.")
        dtype = next(self.head.parameters()).dtype
        if made.maps[0].dtype == dtype or autocasts(self.device):
            return made
        return replace(made, maps=tuple(one.to(dtype) for one in made.maps))

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: the head at `lr`, the U-Net at `unet_scale` of it; norms and biases do not decay.

        Source:
            The released segmentation code: 8e-5, 0.1 and 5e-3. Its depth code takes 0.01 for the U-Net.
        """
        return [
            *decay_groups(self.head, lr=lr, weight_decay=weight_decay),
            *self.backbone.parameter_groups(lr, unet_scale=unet_scale, weight_decay=weight_decay),
        ]

    def _text_of(
        self, pixels: Float[Tensor, "1 3 h w"], caption: str | Conditioning | None
    ) -> tuple[Conditioning, str | None]:
        """The text for one image, encoded, and its words if it has any."""
        if self.stored_text is not None and isinstance(caption, Conditioning):
            return caption, None  # of another room, say
        if self._fixed_text is not None:
            if caption is not None:
                raise CaptionError(
                    f"this model's text is {self.prompt_mode!r}, the same for all images; leave caption out."
                )
            return self._fixed_text, None
        if caption is None:
            if self.captioner is None:
                raise CaptionError(
                    "this model wants a caption; pass caption=…, or call model.attach_captioner('tadp-tiny') once."
                )
            caption = next(iter(self.captioner(pixels)))
        if isinstance(caption, Conditioning):
            return caption, None
        return self.backbone.encode_text(caption, truncate=True), caption

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """Evaluation mode and no gradient; afterwards all is as it was."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            self.eval()
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the mixin's takes any keyword
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        base_model: str | Path | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> Model:
        """Load a model that `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A folder, or a repository on the hub.
            base_model: What it was trained on, if it is elsewhere now than where the config says.
            dtype: Of all parts; None is float32.
            device: Where it goes; None is the CPU.
            revision: Branch, tag or commit of the repository; the base's own is in the config.
            local_files_only: Never ask the hub.
            cache_dir: Where hub models are kept.
            token: For gated models.

        Raises:
            UnknownModelError: If there is no such model, or its base is not to be had.
            MissingFileError, CorruptFileError: If a file is missing or damaged; the message says which.
            ModelError: If it is another kind of model, or weights and config disagree.
        """
        hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        folder = find_task(pretrained_model_name_or_path, hub)
        config = read_config(folder, cls)
        dtype = dtype or torch.float32
        backbone = load_backbone(folder, config, base_model=base_model, dtype=dtype, hub=hub)
        model = cls(backbone, **config["options"])
        load_weights(model, folder, config)
        model.captioner_name = config.get("captioner")
        model.record = config.get("record", {})
        return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a folder that `from_pretrained` gives back: the head, what was tuned of the U-Net, config and card.

        The frozen base is not copied if it can be had again: "tadp-tiny", a hub id, kept with its commit, or a folder,
        kept with its path. One made from parts is written into `base/`, once. A failure leaves what the folder held.

        Args:
            save_directory: The folder.
            config: Not used: the config is the model's own.
            repo_id: As `push_to_hub` takes it; the folder's name by default.
            push_to_hub: Send it to the hub afterwards.
            model_card_kwargs: What the card says besides, kept in `record`: "data" (str), "metrics" (dict of numbers),
                "license" (str), "notes" (str).
            **push_to_hub_kwargs: `push_to_hub`'s own.

        Returns:
            The commit's address, if it was sent to the hub.

        Raises:
            OutputError: If the folder cannot be written.
            TypeError, ValueError: If the card has no such entry, or one is of another kind; nothing is written then.
        """
        self.record |= card_record(model_card_kwargs or {})
        folder = Path(save_directory)
        with replace_folder(folder) as part:
            self._save_pretrained(part)
            self.generate_model_card().save(part / "README.md")
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send the model to the hub; `options` are those of `huggingface_hub.ModelHubMixin.push_to_hub`.

        Raises:
            ModelError: If its base is a folder on this machine, which nobody else could load.
        """
        source = self.backbone.source
        if source is not None and Path(source.name).expanduser().is_dir():
            raise ModelError(
                f"the base of this model is the folder {source.name}, which others do not have. Push the base, load it "
                "by its hub id, and save the model anew."
            )
        return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_task(self, save_directory)

    def generate_model_card(self, **card: Any) -> ModelCard:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The README of the model's repository: base, licence, text, data, figures, and how to use it."""
        self.record |= card_record(card)
        return model_card(self)


def _check_lora(backbone: TADPBackbone, tune: Tune, rank: int) -> None:
    """Refuse a LoRA that is there already and is not the one asked for."""
    there = lora_rank_of(backbone.unet)
    if there is None or (tune == "lora" and there == rank):
        return
    raise ModelError(
        f"this backbone's U-Net has a LoRA of rank {there} already; got tune={tune!r}, lora_rank={rank}. Load the "
        "backbone again, or ask for that LoRA."
    )


def _fixed_text(mode: PromptMode, classes: Sequence[str], backbone: TADPBackbone) -> Conditioning | None:
    """The text that is the same for all images; None for captions."""
    check_choice(mode, PROMPT_MODES, name="prompt_mode")
    if mode in ("captions", "stored"):
        return None
    if mode == "null":
        return backbone.encode_text("")
    if not classes:
        raise ValueError(f"prompt_mode {mode!r} says the names of classes; pass them as prompt_classes=.")
    if mode == "class_names":
        return backbone.encode_text(prompts.class_names(classes))
    make = prompts.class_embeddings if mode == "class_embeddings" else prompts.averaged_eos
    text = make(classes, backbone)
    length = text.embeddings.shape[1]
    if backbone.attach_attention and not backbone.pool_attention and backbone.text_length != length:
        raise ModelError(
            f"{mode!r} has {length} embeddings for these classes, the backbone counts {backbone.text_length} tokens. "
            f"Load it with text_length={length}. (The text says {', '.join(classes)}.)"
        )
    return text


def label_of(sample: Sample, name: str) -> Any:
    """A sample's label of one kind.

    Raises:
        ValueError: If it has none.
    """
    label = getattr(sample, name)
    if label is None:
        raise ValueError(f"sample {sample.image_id!r} has no {name}; evaluate on a data set that has it.")
    return label


def loss_text(loss: Tensor | None) -> str:
    """A loss for a repr."""
    return "None" if loss is None else f"{float(loss.detach()):.4f}"
