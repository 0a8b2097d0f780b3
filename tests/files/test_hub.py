"""Pushing to and loading from a Hub over HTTP, with the real client in processes of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback_hub import Hub, loopback_hub

CLIENT = Path(__file__).parents[1] / "support" / "hub_client.py"
KINDS = ("backbone", "captioner", "depth", "dreambooth", "large", "lora", "segmentation", "token", "words")


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hub")


def client(hub: Hub, folder: Path, action: str, *, home: str, **environment: str) -> Any:
    """Run an action of the client with a cache of its own, and return what it saw."""
    result = subprocess.run(
        [sys.executable, CLIENT, action, folder],
        env=hub.environment(folder / home) | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return json.loads((folder / f"{action}.json").read_text())


@pytest.fixture(scope="module")
def pushed(hub: Hub, folder: Path) -> dict[str, Any]:
    return client(hub, folder, "push", home="writer")


@pytest.fixture(scope="module")
def read(hub: Hub, folder: Path, pushed: dict[str, Any]) -> list[dict[str, Any]]:
    """What a process with an empty cache loaded, the cards that it read, and the messages that it got."""
    hub.repositories["models", "me/large"].cut_at += [22 << 20]
    files = {"modifier.json": b"{}", "unet.safetensors": b"1" * 100}
    for name, options in {
        "gated": {"is_gated": True}, "private": {"is_private": True}, "forbidden": {"status": 403},
        "limited": {"status": 429}, "faulty": {"status": 500}, "broken": {"cut_at": [0] * 30},
    }.items():  # fmt: skip
        hub.add(f"other/{name}", files, **options)
    for name, status in {"limited": 429, "faulty": 500}.items():
        hub.add(f"me/{name}", files, status=status)
    return client(hub, folder, "read", home="reader")


@pytest.fixture(scope="module")
def loaded(read: list[dict[str, Any]]) -> dict[str, Any]:
    return read[0]


def test_every_kind_comes_back_bit_for_bit_at_its_commit(pushed, loaded):
    assert sorted(pushed) == sorted(KINDS)
    for kind in KINDS:
        assert loaded[kind] == pushed[kind]["digest"], kind
    assert loaded["timestep"] == pushed["backbone"]["timestep"] == 20


def test_a_commit_is_pinned_when_the_branch_moves_on(hub, pushed, loaded):
    first, second = (pushed["segmentation"][name].rsplit("/", 1)[1] for name in ("url", "second"))
    assert loaded["records"] == [{}, {"notes": "Later."}]
    assert hub.repositories["models", "me/segmentation"].resolve("main") == second != first
    # The base model of a task model is pinned too.
    assert loaded["base"] == ["me/backbone", pushed["backbone"]["url"].rsplit("/", 1)[1]]


def test_a_task_model_with_a_lora_is_also_a_lora(loaded):
    assert loaded["fused"]


def test_data_sets_are_read_at_a_tag(loaded):
    assert loaded["pictures"] == {"labels.csv": "train.png,dog\n", "train.png": "image" * 10}


def test_a_download_that_breaks_off_continues_where_it_stopped(hub, pushed, loaded):
    [size] = [len(data) for path, data in hub.files("me/large").items() if path.endswith(".safetensors")]
    assert size > 25_000_000
    large = [line for line in hub.log if line.method == "GET" and line.path.startswith("/cdn/models/me/large/")]
    assert [(line.range, line.status) for line in large] == [(None, 200), ("bytes=20971520-", 206)]


def test_no_token_reaches_the_hosts_of_large_files(hub, loaded):
    lines = [line for line in hub.log if line.path.startswith(("/cdn/", "/upload/"))]
    assert lines
    assert {line.user for line in lines} == {None}
    assert {line.host.split(":")[0] for line in lines} == {"localhost"}


def test_the_cache_is_enough_without_the_hub(hub, folder, loaded):
    count = len(hub.log)
    again, refused = client(hub, folder, "offline", home="reader", HF_HUB_OFFLINE="1")
    assert again == loaded
    assert refused == "OutputError: cannot push to 'me/words': offline mode is on. Unset HF_HUB_OFFLINE."
    assert len(hub.log) == count


def test_the_code_of_every_card_runs_and_the_card_says_what_the_model_is(hub, pushed, read):
    texts = read[1]
    assert sorted(texts) == sorted(set(KINDS) - {"words", "large"})
    heads = {name: yaml.safe_load(text.split("---\n")[1]) for name, text in texts.items()}
    assert {head["library_name"] for head in heads.values()} == {"tadp"}
    assert "| base model | tadp-tiny |" in texts["backbone"]
    assert "20; no noise |" in texts["backbone"]
    assert heads["backbone"]["license"] == "apache-2.0"
    depth = texts["depth"]
    commit = pushed["backbone"]["url"].rsplit("/", 1)[1]
    for text in ("| base model | me/backbone |", commit, "| RMSE | 1.25 |", "two \\| scenes", "| text | null |"):
        assert text in depth
    assert "![What the model does](picture.png)" in depth
    assert heads["depth"]["base_model"] == "me/backbone"
    assert (heads["depth"]["license"], heads["depth"]["license_name"]) == ("other", "my-own-licence")
    assert "`a dog on grass` becomes `a <toy> photo of a dog on grass`" in texts["token"]
    assert "2 vectors of width 96" in texts["token"]
    for name in ("lora", "dreambooth"):
        assert "| base model | tadp-tiny |" in texts[name]
        assert "| data | 2 images of 128 pixels |" in texts[name]
    assert "min_new_tokens=3, dtype=torch.float16" in texts["captioner"]
    for name in ("depth", "token"):
        assert hub.files(f"me/{name}")["picture.png"].startswith(b"\x89PNG")


def test_the_code_on_the_page_about_publishing_runs(hub, pushed):
    assert hub.files("me/my-depth").keys() == {"config.json", "model.safetensors", "README.md", "picture.png"}
    assert hub.repositories["models", "me/watercolor"].is_private
    assert hub.files("me/my-captioner").keys() > {"model.safetensors", "text_tokenizer/tokenizer.json", "README.md"}


def test_what_is_pushed_is_what_loading_needs(hub, pushed):
    assert hub.files("me/segmentation").keys() == {
        "config.json", "model.safetensors", "pytorch_lora_weights.safetensors", "README.md",
    }  # fmt: skip
    assert hub.files("me/lora").keys() == {"pytorch_lora_weights.safetensors", "README.md"}
    assert hub.files("me/token").keys() == {"learned_embeds.safetensors", "modifier.json", "README.md", "picture.png"}
    assert hub.files("me/words", revision="side/branch").keys() == {"modifier.json", "README.md"}
    assert not hub.files("me/words")
    assert hub.repositories["models", "me/backbone"].messages == ["initial commit", "halved"]
    assert hub.repositories["models", "me/segmentation"].messages[-1] == "second"


def test_messages_say_what_the_hub_refused(hub, read):
    seen = read[2]
    terms = f"Accept its terms at {hub.url}/other/gated"
    log_in = "run 'hf auth login', or pass token=…."
    for name, expected in {
        "missing": f"the hub has no such public repository. If it is private, {log_in}",
        "private": f"the hub has no such public repository. If it is private, {log_in}",
        "forbidden": f"this token may not read it (HTTP 403). To use another one, {log_in}",
        "limited": "the hub had too many requests from here (HTTP 429). Wait 7 seconds, and try again.",
        "faulty": "the hub has a problem of its own (HTTP 500). Try again later.",
        "broken": "the connection broke (peer closed connection without sending complete message body",
        "gated": f"it is gated, and the user of this token may not read it. {terms}.",
        "gated without token": f"it is gated. {terms}, and {log_in}",
        "wrong token": f"the hub does not accept this token. To use another one, {log_in}",
        "revision": "cannot get 'other/broken' at revision 'v9': the repository has no such revision.",
        "file": "cannot get 'unet.safetensors' from 'other/broken': the connection broke",
        "other kind": "the hub has a problem of its own (HTTP 500). Try again later.",
    }.items():
        assert seen["loads"][name].startswith("UnknownModelError: cannot get "), name
        assert expected in seen["loads"][name], name
    for name, expected in {
        "limited": "cannot push to 'me/limited': the hub had too many requests from here (HTTP 429). Wait 7 seconds",
        "faulty": "cannot push to 'me/faulty': the hub has a problem of its own (HTTP 500).",
        "other account": "this token may not write to the account 'other' (HTTP 403). Push to your own account",
        "no token": f"the hub needs a token that may write. Create one at {hub.url}/settings/tokens, and {log_in}",
        "wrong token": "the hub needs a token that may write.",
        "name": "cannot push to 'me/no spaces': ",
    }.items():
        assert seen["pushes"][name].startswith("OutputError: "), name
        assert expected in seen["pushes"][name], name
    assert "got 'licence'" in seen["pushes"]["entry"]
    assert ("models", "me/never") not in hub.repositories
