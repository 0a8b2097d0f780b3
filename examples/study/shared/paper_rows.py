"""The rows of the paper's tables, each defined once, so that tables share their runs."""

from .rows import Row
from .texts import Text

EOS, CLASS_EMBS, CLASS_NAMES = Text("averaged eos"), Text("class embeddings"), Text("class names")
PLACES = Text("places")

VPD_R = Row("VPD(R)", EOS, scale_latents=False, adapter=True)
VPD_LS = Row("VPD(LS)", EOS, adapter=True)
AVERAGED_EOS = Row("averaged EOS, LS, no adapter", EOS)
NAMES = Row("Class Names", CLASS_NAMES)
EMBEDDINGS = Row("Class Embs", CLASS_EMBS)
TADP = {tokens: Row(f"TADP-{tokens}", Text("captions", tokens)) for tokens in (0, 20, 40)}
TADP_ADAPTER = Row("TADP-40, adapter", Text("captions", 40), adapter=True)
NOUNS = Row("TADP(NO)-20", Text("nouns", 20))
ORACLE = Row("TADP-Oracle", Text("oracle"))

# For depth, the text of a room is the averaged end token of only its name. The released depth code also has an adapter.
ROOM_R = Row("VPD(R)", PLACES, scale_latents=False, adapter=True)
ROOM_LS = Row("VPD(LS)", PLACES, adapter=True)
