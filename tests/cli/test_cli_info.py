from builders import build_backbone
from rich.console import Console

from tadp.cli.info import model_tables


def test_channels_pooled_by_name_are_counted_and_named(tmp_path):
    build_backbone(pool_attention=["dog", "red cat"]).save_pretrained(tmp_path)
    console = Console(width=200)
    with console.capture() as captured:
        for table in model_tables(str(tmp_path)):
            console.print(table)
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "1 16 16 + 2 attached" in "\n".join(lines)
    assert "Attention by name dog, red cat" in lines
