"""The command line, `tadp COMMAND`, with one module per command.

The commands are `extract`, `features`, `show`, `explore`, `match`, `segment` and `info` for features; `caption`,
`prompt` and `clean` for text; `data` for data sets; `train`, `predict`, `evaluate` and `convert` for task models; and
`personalize` and `export`. torch, diffusers and transformers are imported inside the commands, so that `tadp --help` is
fast.
"""

from tadp.cli import caption as caption
from tadp.cli import clean as clean
from tadp.cli import convert as convert
from tadp.cli import data as data
from tadp.cli import evaluate as evaluate
from tadp.cli import explore as explore
from tadp.cli import export as export
from tadp.cli import extract as extract
from tadp.cli import features as features
from tadp.cli import info as info
from tadp.cli import match as match
from tadp.cli import personalize as personalize
from tadp.cli import predict as predict
from tadp.cli import prompt as prompt
from tadp.cli import segment as segment
from tadp.cli import show as show
from tadp.cli import train as train
from tadp.cli.app import app as app

__all__ = ["app"]
