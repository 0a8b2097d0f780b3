"""The folder of a run: the checkpoint to continue from, the record of the run, and the result."""

import json
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tadp.errors import Argument, CorruptFileError, ModelError, ModifierError, OutputError
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import check_utf8
from tadp.files.hub import check_readable
from tadp.files.schema import check_types
from tadp.files.weight_values import check_finite, check_floats
from tadp.modifiers import CaptionModifier
from tadp.personalize.run_options import SettledOptions
from tadp.personalize.trained_model import DiffusionModel
from tadp.personalize.training_images import Concept

CHECKPOINT_NAME, RECORD_NAME = "checkpoint.safetensors", "training.json"
_TRAINED, _OPTIMIZER = "trained.", "optimizer."
_MOMENTS = (("exp_avg", "exp_avg_sq"), ("state1", "state2"))  # of torch's Adam, and of bitsandbytes', in 8 bits
# A run may continue with more steps. Options that are not listed here change no number, or only its last bits.
_COMPARED = ("batch_size", "lr", "weight_decay", "seed", "adam_8bit")


def identity_of(
    model: DiffusionModel, concepts: Sequence[Concept], options: SettledOptions, **settings: Any
) -> dict[str, Any]:
    """Return what identifies a run, as JSON values: model and commit, a digest of the images, the texts, the settings.

    Args:
        model: The model that is trained.
        concepts: The training images and their texts.
        options: The options of the run.
        **settings: Settings that only this kind of training has.
    """
    source = model.backbone.source
    name = source.name if source else str(model.folder)
    return {
        **settings,
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": source.revision if source else None,
        "noise": {
            key: value for key, value in model.noise.config.items() if key in ("prediction_type", "beta_schedule")
        },
        "dtype": str(model.precision).removeprefix("torch."),
        "concepts": [_describe(concept) for concept in concepts],
        **{name: getattr(options, name) for name in _COMPARED},
    }


def _describe(concept: Concept) -> dict[str, Any]:
    texts = [list(texts) for texts in concept.texts]
    images = concept.images
    return {
        "images": images.digest,
        "count": len(images),
        "side_px": images.side_px,
        "flip": images.flip,
        "random_crop": images.random_crop,
        "texts": texts[0] if all(listed == texts[0] for listed in texts) else texts,
        "weight": concept.weight,
    }


def run_record(training: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a model card that the record of a run (`training.json`) answers.

    Args:
        training: The run's identity, with its number of steps.
    """
    concepts = [concept for concept in training["concepts"] if isinstance(concept, Mapping)]
    record = {
        "data": " and ".join(f"{concept['count']} images of {concept['side_px']} pixels" for concept in concepts),
        "notes": f"Trained with steps={training['steps']} and lr={training['lr']}.",
    }
    base = {"base_model": training["model"], "revision": training["revision"]}
    is_private = Path(training["model"]).is_absolute()  # a folder on the machine of the run
    return record | ({} if is_private else {name: value for name, value in base.items() if value})


class RunFolder:
    """The folder of one run. Files are replaced atomically: if a run is killed or the disk is full, old files stay.

    Args:
        path: The folder; None writes nothing to disk.
        identity: The identity of the run, as `identity_of` returns it. A checkpoint with another identity is refused.
        resume: Whether to continue from an existing checkpoint. If not, the run starts from the beginning.
    """

    def __init__(self, path: Path | None, *, identity: Mapping[str, Any], resume: bool = True):
        if path is not None:
            check_utf8(path, OutputError)
        self.path = path
        self.saved_step: int | None = None
        self._identity = json.loads(json.dumps(dict(identity)))  # in the form that a checkpoint holds
        self._resume = resume

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint's file, whether or not it exists."""
        return None if self.path is None else self.path / CHECKPOINT_NAME

    def load(self, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Load the checkpoint into parameters and optimizer, if there is a checkpoint.

        Args:
            trained: The parameters that train, by name.
            optimizer: The optimizer of these parameters.

        Returns:
            The number of steps that were done before; 0 if no checkpoint exists.

        Raises:
            CorruptFileError: If the checkpoint is damaged, or has values that are not finite.
            ModifierError: If the checkpoint belongs to another run.
        """
        path = self.checkpoint
        if path is None:
            return 0
        for folder in (path.parent, *path.parent.glob("*/")):
            remove_leftovers(folder)
        if not self._resume or not path.exists():
            return 0
        tensors, state = _read(path)
        self._compare(state["identity"], path)
        saved = {key.removeprefix(_TRAINED): value for key, value in tensors.items() if key.startswith(_TRAINED)}
        if {key: value.shape for key, value in saved.items()} != {key: value.shape for key, value in trained.items()}:
            raise CorruptFileError(f"{path} holds other tensors than this run trains. Delete it to start again.")
        check_floats(((name, value) for name, value in tensors.items() if not name.endswith(_MOMENTS[1])), path)
        check_finite(tensors.items(), path)
        _restore(optimizer, tensors, state["optimizer"], path)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])
        self.saved_step = state["step"]
        return state["step"]

    def save(self, step: int, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint after a number of steps.

        Raises:
            OutputError: If it cannot be written; the previous checkpoint is kept.
        """
        if self.checkpoint is None:
            return
        tensors = {f"{_TRAINED}{name}": value.detach().cpu().contiguous() for name, value in trained.items()}
        numbers: dict[str, Any] = {}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in _flat(values):
                name = f"{_OPTIMIZER}{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().cpu().contiguous().clone()
                else:
                    numbers[name] = value
        state = {"step": step, "identity": self._identity, "optimizer": numbers}
        with replace_file(self.checkpoint) as part:
            save_file(tensors, part, metadata={"state": json.dumps(state)})
        self.saved_step = step

    def finish(self, modifier: CaptionModifier, *, steps: int) -> None:
        """Record in the resulting modifier how it was trained, and write it and the record of the run.

        Raises:
            OutputError: If a file cannot be written.
        """
        modifier.record |= run_record({**self._identity, "steps": steps})
        if self.path is None:
            return
        modifier.save_pretrained(self.path)
        text = json.dumps({**self._identity, "steps": steps}, indent=2, ensure_ascii=False)
        with replace_file(self.path / RECORD_NAME) as part:
            part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

    def __str__(self) -> str:
        """A sentence about the last checkpoint, for error messages."""
        if self.path is None:
            return "No output was passed, so no checkpoint is kept."
        if self.saved_step is None:
            return "No checkpoint exists yet."
        return f"The checkpoint of step {self.saved_step} is kept in {self.checkpoint}."

    def _compare(self, old: Mapping[str, Any], path: Path) -> None:
        changed = list(_differences(old, self._identity))
        if changed:
            raise ModifierError(
                f"{path} belongs to another run: ",
                *[part for name, change in changed for part in ("; ", Argument(name), change)][1:],
                ". Pass the same settings, another output, or ",
                Argument("resume", False),
                " to start again and replace it.",
            )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_readable(path)
    with safe_open(path, "pt") as file:
        try:
            state = json.loads((file.metadata() or {})["state"])
            check_types(state, _state_entries, path)
            if not signature(_state_entries).parameters.keys() <= state.keys() or state["step"] < 0:
                raise KeyError("state")
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            if isinstance(error, ModelError):
                raise
            raise CorruptFileError(f"{path} is not a checkpoint of tadp.personalize. Move it away.") from error
        return {key: file.get_tensor(key) for key in file.keys()}, state  # noqa: SIM118  safe_open is not a dict


def _state_entries(*, step: int, identity: Mapping[str, Any], optimizer: Mapping[str, float | int]) -> None:
    """The entries of a checkpoint's state, as a schema."""


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """An optimizer's state of one parameter, flattened: bitsandbytes nests part of it, but loads it flat."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _restore(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], path: Path
) -> None:
    state: dict[str, dict[str, Any]] = {}  # by the number of the parameter
    for name, value in {**numbers, **tensors}.items():
        if name.startswith(_OPTIMIZER):
            index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            state.setdefault(index, {})[key] = value
    shapes = {
        str(number): parameter.shape
        for number, parameter in enumerate(chain(*(group["params"] for group in optimizer.param_groups)))
    }
    for index, values in state.items():
        moments = next((pair for pair in _MOMENTS if {*pair, "step"} <= values.keys()), None)
        if moments is None or any(torch.as_tensor(values[name]).shape != shapes.get(index) for name in moments):
            raise CorruptFileError(
                f"{path} does not hold the state of this run's optimizer; parameter {index} has {', '.join(values)}. "
                "Delete it to start again."
            )
    own = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict({"state": own, "param_groups": optimizer.state_dict()["param_groups"]})


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The names of the values that differ, also within dictionaries and lists, and how each differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, now in zip(old, new, strict=True):
            if before != now:  # only the first difference is reported
                yield from _differences(before, now, name)
                return
    elif old != new:
        yield name, f" was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
