"""Captions by image id, for any number of images from one to a hundred million.

    table = CaptionTable.from_json("captions.json")     # a file in the format of the paper's authors, read into memory
    table["2007_000033"]                                # str: the first caption of that image

    with CaptionTable.create("captions.db", provenance=Provenance.of(captioner)) as table:
        table.fill(images_by_id, captioner)             # captions the missing images; run it again to resume
    table = CaptionTable.open("captions.db")            # reads entries only when they are needed

A table on disk is an SQLite database. JSON, JSON Lines and Parquet are read and written for exchange with other
programs.
"""

from tadp.captions.records import CaptionRecord as CaptionRecord
from tadp.captions.records import Provenance as Provenance
from tadp.captions.table import SUFFIXES as SUFFIXES
from tadp.captions.table import CaptionTable as CaptionTable

__all__ = ["SUFFIXES", "CaptionRecord", "CaptionTable", "Provenance"]
