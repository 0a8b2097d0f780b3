"""Clean captions with a language model on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tadp.cleaning.answers import AnswerError, check_answer, instruction
from tadp.cleaning.cleaner import Cleaner, CleaningReport, Kept, keeping, listed, recall
from tadp.cleaning.domains import Domain, domain_of
from tadp.errors import ModelError
from tadp.files.chat_templates import render_chat

if TYPE_CHECKING:
    import torch
    from torch import nn

# Examples of edited captions, which a model without a chat template sees before the caption.
_EXAMPLES = (
    ("a {word} picture of two dogs on a sled", "two dogs on a sled"),
    ("a man holds an umbrella", "a man holds an umbrella"),
)


class ModelCleaner(Cleaner):
    """Asks a text-generation model of transformers to remove mentions of a domain from captions.

    Each prompt contains one caption, and the answer is decoded greedily. An answer that cannot be an edited form of the
    caption (because it is empty, much longer, or has none of the caption's words) is not used: the caption stays as it
    was, and the `CleaningReport` that `clean` returns says why.

    Args:
        model: A causal language model. Captions are cleaned in evaluation mode, without changing the mode of `model`
            itself, and on its device.
        tokenizer: The model's tokenizer. If it has a chat template, the prompts use it.
        domain: The domain whose mentions are removed: "watercolor", "comic", "night", "foggy" or "dashcam"; a list of
            nouns that name another domain; or a `Domain`.
        name: Folder or hub id of the model, for reports.
        batch_size: Number of captions that go through the model at once, 1 or more.
        max_new_tokens: Largest number of tokens in an answer, 1 or more.

    Raises:
        ValueError: If `batch_size` or `max_new_tokens` is below 1.
        CaptionError: If `domain` is an unknown name.

    Source:
        TADP Sec. 4.3, which asks GPT-3.5.
    """

    def __init__(
        self,
        model: "nn.Module",
        tokenizer: Any,
        *,
        domain: str | Domain | Sequence[str] = "watercolor",
        name: str = "model",
        batch_size: int = 8,
        max_new_tokens: int = 77,
    ):
        from tadp.files.pretrained import pad_left

        for what, number in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if number < 1:
                raise ValueError(f"{what} must be 1 or more; got {number}.")
        self.domain = domain_of(domain)
        self.name, self.batch_size, self.max_new_tokens = name, batch_size, max_new_tokens
        self._model = model
        self._tokenizer = tokenizer
        pad_left(tokenizer)
        if tokenizer.pad_token is None:
            raise ModelError(
                f"the tokenizer of {name!r} has neither a pad_token nor an eos_token; set one in tokenizer_config.json."
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        domain: str | Domain | Sequence[str] = "watercolor",
        batch_size: int = 8,
        max_new_tokens: int = 77,
        dtype: "torch.dtype | None" = None,
        device: "torch.device | str | None" = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> "ModelCleaner":
        """Load a language model from a folder or the hub.

        Weights are read only from safetensors files, and no code from a repository is run.

        Args:
            name: A folder, or the id of a repository on the hub, such as "Qwen/Qwen2.5-1.5B-Instruct".
            domain: The domain whose mentions are removed: "watercolor", "comic", "night", "foggy" or "dashcam"; a list
                of nouns that name another domain; or a `Domain`.
            batch_size: Number of captions that go through the model at once, 1 or more.
            max_new_tokens: Largest number of tokens in an answer, 1 or more.
            dtype: Precision of the loaded weights; None is float32, whatever the precision in the file.
            device: Device of the model; None is the CPU.
            revision: Branch, tag or commit of the repository; None is its default branch.
            local_files_only: Whether to use only files in the cache and never connect to the hub.
            cache_dir: Folder for downloads; None is huggingface_hub's own cache.
            token: Access token for gated and private repositories; None is the token that `hf auth login` stored.

        Raises:
            UnknownModelError: If there is no such folder or repository, or the repository cannot be downloaded.
            MissingFileError: If a file of the model is missing.
            CorruptFileError: If a file is damaged, or all weight files are pickles, which are never loaded.
            ModelError: If the model is not a causal language model, or weights are missing.
        """
        from tadp.files.hub import HubOptions
        from tadp.files.pretrained import find_pretrained

        folder = find_pretrained(
            name,
            known="Pass a language model's folder, or its hub id: 'Qwen/Qwen2.5-1.5B-Instruct'.",
            hub=HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only),
        )
        model, tokenizer = _load(folder, str(name), dtype)
        return cls(
            model if device is None else model.to(device),
            tokenizer,
            domain=domain,
            name=str(name),
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
        )

    def __repr__(self) -> str:
        return f"ModelCleaner({self.name!r}, domain={self.domain.name!r})"

    def clean(
        self, captions: str | Sequence[str], *, progress: bool = False, kept: Kept | None = None
    ) -> CleaningReport:
        """Clean captions, and report all captions before and after, and which could not be cleaned.

        Args:
            captions: One caption or several. Repeated captions are processed once, and empty captions stay empty.
            progress: Whether to show a progress bar.
            kept: Captions that were cleaned before; see `Cleaner.clean`.

        Raises:
            TypeError: If a caption is not a string.
            RuntimeError: If torch raises one, for example because memory is full, before any caption is cleaned. If
                this happens later, the captions of that batch stay as they were, and the report says why.
            CleaningInterrupted: If the user presses Ctrl-C. The error's `report` has the captions cleaned until then.
        """
        texts = listed(captions)
        cleaned = recall(texts, kept)
        unique = [text for text in dict.fromkeys(texts) if text.strip() and text not in cleaned]
        failed: dict[str, str] = {}
        with (
            keeping(self.domain, texts, cleaned, failed),
            tqdm(total=len(unique), desc="cleaning", unit="caption", disable=not progress) as bar,
        ):
            for start in range(0, len(unique), self.batch_size):
                batch = unique[start : start + self.batch_size]
                try:
                    answers = self._answers(batch)
                except RuntimeError as error:  # torch's errors, such as a GPU out of memory
                    if not cleaned:
                        raise
                    why = next(iter(str(error).splitlines()), type(error).__name__)
                    failed.update(dict.fromkeys(batch, f"the model failed: {why}"))
                    bar.update(len(batch))
                    continue
                for caption, answer in zip(batch, answers, strict=True):
                    try:
                        if answer is None:
                            raise AnswerError("the prompt is longer than the model allows")
                        cleaned[caption] = check_answer(caption, answer, self.domain)
                    except AnswerError as error:
                        failed[caption] = str(error)
                if kept is not None:
                    kept.update({caption: cleaned[caption] for caption in batch if caption in cleaned})
                bar.update(len(batch))
        return CleaningReport.of_unique(self.domain, texts, cleaned, failed)

    def _answers(self, captions: list[str]) -> list[str | None]:
        """Return the first line of each answer; None if the prompt is too long for the model."""
        import torch

        from tadp.files.inference import check_process, in_evaluation

        check_process()
        prompts = [self._prompt(caption) for caption in captions]
        room = getattr(self._model.config, "max_position_embeddings", None)
        answers: list[str | None] = [None] * len(captions)
        # A chat template writes its own special tokens.
        plain = not self._tokenizer.chat_template
        fitting = [
            number
            for number, prompt in enumerate(prompts)
            if room is None or len(self._tokenizer(prompt, add_special_tokens=plain).input_ids) < room
        ]
        if not fitting:
            return answers
        inputs = self._tokenizer(
            [prompts[number] for number in fitting], padding=True, add_special_tokens=plain, return_tensors="pt"
        ).to(next(self._model.parameters()).device)
        length = inputs.input_ids.shape[1]
        with torch.inference_mode():
            ids = in_evaluation(self._model).generate(  # pyright: ignore[reportCallIssue]
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                do_sample=False,
                max_new_tokens=self.max_new_tokens if room is None else min(self.max_new_tokens, room - length),
                pad_token_id=self._tokenizer.pad_token_id,
            )
        for number, text in zip(
            fitting, self._tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True), strict=True
        ):
            answers[number] = next((line for line in text.splitlines() if line.strip()), "")
        return answers

    def _prompt(self, caption: str) -> str:
        caption = " ".join(caption.split())
        task = instruction(self.domain)
        if self._tokenizer.chat_template:
            chat = [{"role": "user", "content": f"{task} Answer with the edited caption alone.\n\n{caption}"}]
            return render_chat(self._tokenizer.chat_template, chat, tokenizer=self._tokenizer, source=self.name)
        word = (*self.domain.adjectives, *self.domain.nouns)[0]
        examples = "".join(f"Caption: {old.format(word=word)}\nEdited: {new}\n" for old, new in _EXAMPLES)
        return f"{task}\n{examples}Caption: {caption}\nEdited:"


def _load(folder: Path, name: str, dtype: "torch.dtype | None") -> tuple[Any, Any]:
    """Load model and tokenizer from a folder, after checking that both are complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from tadp.files.pretrained import check_pretrained, load_pretrained

    kinds = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    check_pretrained(folder, name, kinds=kinds, purpose="write text; pass a causal language model.")
    return load_pretrained(
        AutoModelForCausalLM,
        AutoTokenizer,
        folder,
        dtype=dtype or torch.float32,
        what=f"the language model {name!r}",
        chat=[{"role": "user", "content": "a dog"}],
    )
