"""Captions by image id, for one image or a hundred million.

    table = CaptionTable.from_json("captions.json")     # the authors' file, in memory
    table["2007_000033"]                                # str: the first caption of that image

    with CaptionTable.create("captions.db", provenance=Provenance.of(captioner)) as table:
        table.fill(images_by_id, captioner)             # captions what is missing; killed, it goes on where it was
    table = CaptionTable.open("captions.db")            # reads an entry when it is asked for

The file is SQLite's; JSON, JSON Lines and Parquet are read and written for others.
"""

from tadp.captions.records import CaptionRecord as CaptionRecord
from tadp.captions.records import Provenance as Provenance
from tadp.captions.table import SUFFIXES as SUFFIXES
from tadp.captions.table import CaptionTable as CaptionTable

__all__ = ["SUFFIXES", "CaptionRecord", "CaptionTable", "Provenance"]
