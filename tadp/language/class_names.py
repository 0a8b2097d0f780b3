"""The class names of the paper's data sets, their synonyms, and phrases that only look as if they named a class.

The tables are plain dictionaries: copy one and change it, or write your own.

    synonyms = VOC_SYNONYMS | {"bottle": ("flask", "thermos")}
    caption_alignment(captions, present, classes=VOC_CLASSES, synonyms=synonyms, decoys=VOC_DECOYS)

Class names are written as in the paper's code. The tables have no plurals, because `tadp.language.matching` finds
plurals itself. Plurals that the package inflect does not know are in its `IRREGULAR_PLURALS`, which you can extend.

Which words belong to a class follows the annotation guidelines of Pascal VOC: a donkey is a horse, a van is a car, and
a stool is not a chair. Watercolor2k and Comic2k use six of VOC's classes, with the same entries. The tables for
Cityscapes and ADE20K are derived from VOC's: words that are classes of their own there are left out, and a few obvious
words and, for ADE20K, words from its benchmark's own list are added. We read no captions of these two data sets. No
table is complete. We wrote most entries before we read any caption. After reading some, we added young animals ("a baby
cow" shows no person), "frigate bird" and a few phrases that look like classes ("sheep dog").
"""

# The 20 classes without the background, as the paper's captions of Pascal VOC 2012 name them.
VOC_CLASSES = (
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorcycle",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "television",
)

# Watercolor2k and Comic2k use six of the VOC classes.
WATERCOLOR_CLASSES = COMIC_CLASSES = ("bicycle", "bird", "car", "cat", "dog", "person")

# The 19 classes that Cityscapes evaluates, in the order of their train ids. Dark Zurich and Nighttime Driving use them
# too.
CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)

# The 150 classes of ADE20K's scene parsing benchmark, in its order, with the short names that mmseg and the paper's
# code use.
ADE20K_CLASSES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet"),
    *("sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water"),
    *("painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk"),
    *("rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard"),
    *("chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand"),
    *("path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove"),
    *("palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus"),
    *("towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver"),
    *("airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle"),
    *("buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything"),
    *("swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven"),
    *("ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher"),
    *("screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan"),
    *("pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag"),
)

# The 27 kinds of rooms of NYU Depth v2, in the order of VPD's nyu_class_list.json and of its class embeddings, with its
# spelling. The paper's code has the same embeddings, but lists the rooms in another order.
NYU_ROOMS = (
    *("printer_room", "bathroom", "living_room", "study", "conference_room", "study_room", "kitchen", "home_office"),
    *("bedroom", "dinette", "playroom", "indoor_balcony", "laundry_room", "basement", "excercise_room", "foyer"),
    *("home_storage", "cafe", "furniture_store", "office_kitchen", "student_lounge", "dining_room", "reception_room"),
    *("computer_lab", "classroom", "office", "bookstore"),
)

VOC_SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": (
        *("aeroplane", "plane", "aircraft", "airliner", "biplane", "glider", "jet", "jetliner", "seaplane"),
        *("jumbo jet", "fighter plane"),
    ),
    "bicycle": ("bike", "cycle", "tricycle", "unicycle", "mountain bike", "push bike", "tandem"),
    "bird": (
        *("albatross", "blackbird", "bluebird", "canary", "chick", "chicken", "cockatoo", "crow", "dove", "duck"),
        *("duckling", "eagle", "egret", "falcon", "finch", "flamingo", "goose", "gosling", "gull", "hawk", "hen"),
        *("heron", "hummingbird", "kingfisher", "loon", "macaw", "magpie", "ostrich", "owl", "parakeet", "parrot"),
        *("peacock", "pelican", "penguin", "pheasant", "pigeon", "puffin", "raven", "robin", "rooster", "seagull"),
        *("songbird", "sparrow", "starling", "stork", "swallow", "swan", "toucan", "vulture", "woodpecker", "wren"),
        *("baby bird", "frigate bird"),
    ),
    "boat": (
        *("barge", "canoe", "catamaran", "dinghy", "ferry", "fishing boat", "frigate", "gondola", "houseboat", "kayak"),
        *("lifeboat", "motorboat", "paddleboat", "raft", "rowboat", "sailboat", "schooner", "ship", "speedboat"),
        *("steamboat", "trawler", "tugboat", "warship", "yacht"),
    ),
    "bottle": (),
    "bus": ("double decker", "minibus", "omnibus", "school bus", "trolleybus"),
    "car": (
        *("automobile", "cab", "convertible", "coupe", "hatchback", "jeep", "limo", "limousine", "minivan", "race car"),
        *("roadster", "sedan", "sports car", "station wagon", "supercar", "suv", "taxi", "van"),
    ),
    "cat": ("baby cat", "feline", "kitten", "kitty", "kitty cat", "tabby", "tomcat"),
    "chair": ("armchair", "deckchair", "deck chair", "highchair", "high chair", "recliner", "rocking chair"),
    "cow": ("baby cow", "bull", "calf", "cattle", "heifer", "ox", "oxen"),
    "dining table": ("diningtable", "dinner table", "kitchen table", "restaurant table", "table"),
    "dog": (
        *("beagle", "bulldog", "canine", "chihuahua", "collie", "corgi", "dachshund", "dalmatian", "doberman"),
        *("german shepherd", "greyhound", "hound", "husky", "labrador", "mastiff", "pit bull", "poodle", "pug"),
        *("pup", "puppy", "retriever", "rottweiler", "schnauzer", "sheepdog", "spaniel", "terrier"),
        *("baby dog", "cattle dog", "sheep dog"),
    ),
    "horse": ("baby horse", "colt", "donkey", "filly", "foal", "mare", "mule", "pony", "stallion"),
    "motorcycle": ("dirt bike", "moped", "motor bike", "motorbike", "motor cycle", "motor scooter", "scooter"),
    "person": (
        *("adult", "athlete", "audience", "baby", "bicyclist", "biker", "boy", "bride", "child", "chef", "cowboy"),
        *("crowd", "couple", "cyclist", "dancer", "doctor", "driver", "farmer", "firefighter", "fisherman"),
        *("gentleman", "girl", "groom", "guy", "human", "infant", "jockey", "kid", "lady", "man", "motorcyclist"),
        *("musician", "nurse", "officer", "passenger", "pedestrian", "pilot", "player", "policeman", "racer", "rider"),
        *(
            "singer",
            "skateboarder",
            "skier",
            "soldier",
            "student",
            "surfer",
            "swimmer",
            "teenager",
            "toddler",
            "tourist",
        ),
        *("waiter", "waitress", "woman", "worker"),
    ),
    "potted plant": ("flowerpot", "flower pot", "house plant", "houseplant", "plant", "plant pot", "pottedplant"),
    "sheep": ("baby sheep", "ewe", "lamb", "ram"),
    "sofa": ("couch", "futon", "love seat", "loveseat", "settee", "sofa bed"),
    "train": ("locomotive", "railcar", "railway carriage", "steam engine", "subway car", "train car"),
    "television": (
        *("computer monitor", "computer screen", "flat screen", "monitor", "screen", "television set", "tv"),
        *("tv monitor", "tvmonitor", "tv screen"),
    ),
}

VOC_DECOYS = (
    *("bird bath", "bird cage", "bird feeder", "bird house", "bird nest", "boat dock", "boat house", "bus lane"),
    *("bus station", "bus stop", "car park", "car seat", "cat food", "chair lift", "coffee table", "couple of"),
    *("dog bed", "dog food", "dog house", "end table", "hot dog", "jet ski", "night table", "picnic table"),
    *("plane tree", "ping pong table", "pool table", "power plant", "record player", "rocking horse"),
    *("cd player", "dvd player", "side table", "table lamp", "table tennis", "train platform"),
    *("train station", "train track", "train yard", "tv show", "tv stand", "wheel chair", "window screen"),
)


def _voc(classes: tuple[str, ...], *names: str) -> tuple[str, ...]:
    """VOC names with their synonyms, without the words that are classes of their own in `classes`."""
    words = [word for name in names for word in (name, *VOC_SYNONYMS[name])]
    return tuple(word for word in dict.fromkeys(words) if word not in classes)


WATERCOLOR_SYNONYMS = COMIC_SYNONYMS = {name: VOC_SYNONYMS[name] for name in WATERCOLOR_CLASSES}

CITYSCAPES_SYNONYMS: dict[str, tuple[str, ...]] = {
    **{name: _voc(CITYSCAPES_CLASSES, name) for name in ("car", "bus", "motorcycle", "bicycle")},
    "person": tuple(word for word in _voc(CITYSCAPES_CLASSES, "person") if not word.endswith(("cyclist", "biker"))),
    "rider": ("bicyclist", "biker", "cyclist", "motorcyclist"),
    "road": ("street", "highway"),
    "sidewalk": ("pavement",),
    "building": ("house", "skyscraper"),
    "traffic light": ("stop light", "stoplight", "traffic signal"),
    "traffic sign": ("road sign", "stop sign", "street sign"),
    "vegetation": ("bush", "hedge", "tree"),
    "train": (*_voc(CITYSCAPES_CLASSES, "train"), "tram"),
    "truck": ("lorry",),
}

# Further names of the classes in the benchmark's own list, objectInfo150.txt of CSAILVision/sceneparsing, if they can
# hardly mean anything else (there, "ground" is both earth and land, and "can" is a toilet), and a few obvious words.
ADE20K_SYNONYMS: dict[str, tuple[str, ...]] = {
    **{name: _voc(ADE20K_CLASSES, name) for name in ("airplane", "bicycle", "boat", "car", "chair", "person", "sofa")},
    "animal": (*_voc(ADE20K_CLASSES, "bird", "cat", "cow", "dog", "horse", "sheep"), "beast", "creature"),
    "apparel": ("clothes", "dress", "wearing apparel"),
    "ashcan": (*("ash bin", "ashbin", "dustbin", "garbage can", "trash barrel", "trash bin", "trash can", "wastebin"),),
    "awning": ("sunblind", "sunshade"),
    "bannister": ("baluster", "balustrade", "banister", "handrail"),
    "barrel": ("cask",),
    "base": ("pedestal",),
    "basket": ("handbasket",),
    "bathtub": ("bathing tub", "tub"),
    "booth": ("cubicle", "kiosk"),
    "buffet": ("sideboard",),
    "building": ("edifice",),
    "bulletin board": ("notice board",),
    "bus": (*_voc(ADE20K_CLASSES, "bus"), "motorbus", "motorcoach", "omnibus"),
    "case": ("display case", "showcase", "vitrine"),
    "chest of drawers": ("bureau", "dresser"),
    "coffee table": ("cocktail table",),
    "column": ("pillar",),
    "conveyer belt": ("conveyer", "conveyor", "conveyor belt"),
    "curtain": ("drape", "drapery"),
    "dishwasher": ("dish washer", "dishwashing machine"),
    "door": ("double door",),
    "escalator": ("moving staircase", "moving stairway"),
    "fireplace": ("hearth",),
    "floor": ("flooring",),
    "glass": ("drinking glass",),
    "grandstand": ("covered stand",),
    "hood": ("exhaust hood",),
    "hovel": ("hut", "shack", "shanty"),
    "land": ("soil",),
    "microwave": ("microwave oven",),
    "minibike": _voc(ADE20K_CLASSES, "motorcycle"),
    "ottoman": ("hassock", "pouf", "pouffe"),
    "palm": ("palm tree",),
    "pier": ("dock", "wharf"),
    "plant": ("flora", "house plant", "houseplant", "plant life", "potted plant"),
    "plaything": ("toy",),
    "pool table": ("billiard table", "snooker table"),
    "poster": ("placard",),
    "pot": ("flowerpot",),
    "refrigerator": ("fridge", "icebox"),
    "road": ("highway", "street"),
    "rock": ("stone",),
    "rug": ("carpet", "carpeting"),
    "screen": ("projection screen", "silver screen"),
    "sidewalk": ("pavement",),
    "signboard": ("sign",),
    "stairway": ("staircase",),
    "stove": ("cooking stove", "kitchen stove"),
    "streetlight": ("street lamp", "street light"),
    "table": ("dining table", "dinner table", "kitchen table"),
    "tank": ("storage tank",),
    "television receiver": ("telly", "television", "television set", "tv", "tv screen", "tv set"),
    "trade name": ("brand name",),
    "traffic light": ("stoplight", "traffic signal"),
    "truck": ("lorry", "motortruck"),
    "wardrobe": ("closet",),
    "washer": ("washing machine",),
    "windowpane": ("window",),
}
