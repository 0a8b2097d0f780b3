"""Learned tokens as other programs write them."""

from pathlib import Path

from torch import Tensor

from tadp.convert.pickles import read_pickle
from tadp.errors import MissingFileError, ModifierError
from tadp.text.learned_tokens import LearnedToken, named_token
from tadp.text.learned_tokens import read_token as read_safetensors_token

UNNAMED_TOKEN = "*"  # what Textual Inversion's own code calls every token inside its files


def read_token(path: str | Path, *, token: str | None = None) -> LearnedToken:
    """Read a learned token from any file that Textual Inversion comes in.

    Args:
        path: diffusers' learned_embeds.bin, {token: vectors}; AUTOMATIC1111's or the original code's .pt, with
            string_to_param; one bare tensor; or a .safetensors file, as `tadp.text.learned_tokens.read_token` does.
        token: What to call it instead; needed if the file does not say.

    Returns:
        The token and its vectors, (N, D), in float32 or what the file holds.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is damaged, or holds more than tensors and plain values; nothing in it is run.
        ModifierError: If it holds no learned token, or does not name it.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "learned_embeds.bin"
        >>> torch.save({"<toy>": torch.zeros(8)}, path)
        >>> token, vectors = read_token(path)
        >>> token, tuple(vectors.shape)
        ('<toy>', (1, 8))
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors_token(path, token=token)
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}; pass the file of a learned token.")
    content = read_pickle(path)
    name: str | None = None
    if isinstance(content, dict) and "string_to_param" in content:
        given = content.get("name")
        name = given if isinstance(given, str) and given != UNNAMED_TOKEN else None
        content = dict(content["string_to_param"].items())
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if len(tensors) != 1:
            raise ModifierError(
                f"a learned token is one tensor under its name; {path} holds {len(tensors)} tensors, under "
                f"{', '.join(sorted(map(str, content))[:4])} …. Tokens for several text encoders are not read."
            )
        [(key, content)] = tensors.items()
        name = name or (key if key != UNNAMED_TOKEN else None)
    if not isinstance(content, Tensor):
        raise ModifierError(f"{path} holds a {type(content).__name__}, not a learned token.")
    return named_token(content.detach().clone(), name, token, path)
