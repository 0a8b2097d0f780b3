"""Pushing what can be saved to the Hugging Face hub, together with its model card."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard

from tadp.errors import OutputError
from tadp.files.hub_errors import HUB_ERRORS, why_not_pushed
from tadp.files.model_card import split_picture, write_card


class Pushable:
    """The base of everything that can be pushed to the hub. A subclass says how it is saved, and what its card says."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> Any:
        """Write everything that `from_pretrained` needs to a folder."""

    @abstractmethod
    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the repository.

        Args:
            **entries: The entries of `model_card_kwargs` in `push_to_hub`, except for the picture.
        """

    def stage(self, folder: Path, *, repo_id: str | None = None, entries: Mapping[str, Any] | None = None) -> None:
        """Write what `push_to_hub` sends to a folder: everything that `save_pretrained` writes, and the model card.

        Args:
            folder: The folder to write to.
            repo_id: The id of the repository, for the code in the card; None if it is not known yet.
            entries: See `model_card_kwargs` in `push_to_hub`.

        Raises:
            TypeError, ValueError: If an entry of the card is unknown or has the wrong type. Nothing is written.
            OutputError: If the folder cannot be written to.
        """
        texts, picture = split_picture(entries)
        card = self.generate_model_card(**texts)
        self.save_pretrained(folder)
        write_card(card, folder, picture=picture, repo_id=repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Push with tadp",
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Save to the hub, with a model card. `from_pretrained(repo_id)` then loads the same again.

        Args:
            repo_id: The id of the repository, "owner/name" or "name". It is created if it does not exist.
            private: Whether a new repository is private; None is the default of its owner.
            token: Access token that may write; None is the token that `hf auth login` stored.
            branch: The branch to push to, which is created if it does not exist; None is "main".
            create_pr: Whether to open a pull request instead of pushing to the branch.
            commit_message: The message of the commit.
            model_card_kwargs: Entries of the model card: "data", "license" and "notes" are strings, and so are
                "base_model" and "revision", for a base model that is not known otherwise. "metrics" is a dict of
                numbers, and "picture" an image or the path of one. None adds none.

        Returns:
            The URL of the commit. It ends in the commit's id, which `from_pretrained` takes as `revision`.

        Raises:
            OutputError: If the hub does not take it; the message says why.
            TypeError, ValueError: If an entry of the card is unknown or has the wrong type. Nothing is sent.
        """
        api = HfApi(token=token)
        with _explained(repo_id):
            name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        with TemporaryDirectory() as staged:
            self.stage(Path(staged), repo_id=name, entries=model_card_kwargs)
            with _explained(name):
                api.create_repo(name, private=private, exist_ok=True)
                if branch is not None and not create_pr:
                    api.create_branch(name, branch=branch, exist_ok=True)
                return api.upload_folder(
                    repo_id=name,
                    folder_path=staged,
                    commit_message=commit_message,
                    revision=branch,
                    create_pr=create_pr,
                )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an OutputError. It wraps an error of an upload in a RuntimeError."""
    try:
        yield
    except (*HUB_ERRORS, RuntimeError, ValueError) as error:
        raise OutputError(f"cannot push to {name!r}: {why_not_pushed(error, name)}") from None
