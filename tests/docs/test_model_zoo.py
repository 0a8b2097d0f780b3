"""The model-zoo page names the models of the code's tables, with the figures of the page on base models."""

import json
import re
from pathlib import Path

import tadp
from tadp.assets import TASK_MODELS, task_model_folder, tiny_folder
from tadp.captioner import model_files
from tadp.convert import forms
from tadp.files.model_card import LICENSES
from tadp.files.model_folder import ALIASES, KNOWN_MODELS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "model-zoo.md").read_text(encoding="utf-8")


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of a table, row by row; `header` is the first cell of its header."""
    lines = text.partition(f"\n| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


BASE = rows(PAGE, "id | architecture")


def test_base_models_have_the_figures_of_their_architecture():
    computed = {cells[0]: cells for cells in rows((DOCS / "base-models.md").read_text(encoding="utf-8"), "model")}
    assert len(BASE) > 10
    for _, architecture, channels, strides, size, *_ in BASE:
        assert [channels, strides] == computed[architecture][1:3]
        total = sum(int(part.replace(",", "")) for part in computed[architecture][5].split(" + "))
        assert int(size.replace(",", "")) == total, architecture
    assert {cells[1] for cells in BASE} == set(computed)


def test_removed_models_and_their_commits_are_those_that_the_code_loads():
    removed = {cells[0].split("`")[1]: cells for cells in BASE if "removed" in cells[0]}
    assert set(removed) == set(ALIASES)
    for name, cells in removed.items():
        assert cells[-1] == f"`{ALIASES[name].revision[:7]}`"
        assert ALIASES[name].name in PAGE
    assert all(cells[-1] == "not pinned" for cells in BASE if "removed" not in cells[0])
    assert all(f"`{name}`" in PAGE for name in KNOWN_MODELS)


def test_licences_on_model_cards_are_those_of_the_page():
    full = {"Apache-2.0": "apache-2.0", "CreativeML OpenRAIL-M": "creativeml-openrail-m", "OpenRAIL++-M": "openrail++"}
    listed = {name: full.get(cells[5]) for cells in BASE for name in re.findall(r"`([^`]+/[^`]+)`", cells[0])}
    assert {name: licence for name, licence in listed.items() if licence} == {
        name: licence for name, licence in LICENSES.items() if name != "tadp-tiny"
    }


def test_models_in_the_package_have_the_sizes_and_figures_of_their_files():
    listed = {cells[0].strip("`"): cells for cells in rows(PAGE, "name")}
    assert list(listed) == ["tadp-tiny", *TASK_MODELS.values()]
    page = (DOCS / "tadp-tiny.md").read_text(encoding="utf-8")
    on_page = {cells[0].strip("`"): cells for cells in rows(page, "name")}
    for name, (_, what, size, licence, checked) in listed.items():
        folder = task_model_folder(name) or tiny_folder()
        total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        assert size == (f"{total:.0f} MB" if name == "tadp-tiny" else f"{total:.1f} MB")
        assert licence.lower() == LICENSES["tadp-tiny"]
        if name == "tadp-tiny":
            continue
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert what.startswith(f"`{config['model']}` on `{config['base']['name']}`")
        measure, figure = re.match(r"\[(\w+) ([\d.]+)", checked).groups()
        metrics = {key.partition(" ")[0]: value for key, value in config["record"]["metrics"].items()}
        assert figure == f"{metrics[measure]:.2f}"
        assert on_page[name][1].startswith(f"{measure} {figure} ")
        assert on_page[name][2] == size


def test_captioners_are_those_of_the_code():
    names = {tuple(re.findall(r"`([^`]+)`", cells[0])) for cells in rows(PAGE, "name or id")}
    assert names == {("tadp-tiny",), *model_files.ALIASES.items()}


def test_kinds_of_checkpoints_are_those_that_convert_recognises():
    kinds = {value.kind: value.task for value in vars(forms).values() if isinstance(value, forms.Form)}
    models = {"depth": "Depth", "segmentation": "Semantic", "detection": "Object"}
    table = {cells[0]: cells[1] for cells in rows(PAGE, "kind of file")}
    assert set(table) == set(kinds)
    for kind, model in table.items():
        assert model.strip("`").startswith(f"TADPFor{models[kinds[kind]]}")
        assert hasattr(tadp, model.strip("`"))
