"""Tables of English words that `tadp.language.grammar` goes by. None is complete; what is in none, no rule touches."""

ARTICLES = frozenset({"a", "an", "the"})
# After one of these a noun phrase has its determiner: no article goes before it.
DETERMINERS = ARTICLES | {
    "this", "that", "these", "those", "some", "any", "no", "each", "every", "both", "all", "my", "his", "her",
    "its", "their", "our", "your", "another", "several", "many", "few", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
}  # fmt: skip
# Words that carry no content. With DETERMINERS, what a content word is not.
FUNCTION_WORDS = frozenset((
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "nor", "is", "are", "was", "were", "be", "been", "being", "has",
    "have", "had", "do", "does", "did", "there", "here", "it", "he", "she", "they", "we", "i", "you", "him", "them",
    "us", "who", "whom", "whose", "which", "what", "while", "when", "where", "than", "then", "so", "very", "shown",
    "showing", "shows", "depicted", "depicting", "depicts", "featuring", "features",
))  # fmt: skip
# Nothing ends in one of these: what follows has been lost.
DANGLING = ARTICLES | {
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "is", "are", "was", "were", "be", "shown", "painted", "drawn",
    "depicted", "rendered",
}  # fmt: skip
# Names that are one word and begin captions: cities, countries, what belongs to them, months. Not complete.
PLACES = frozenset((
    "africa", "african", "america", "american", "amsterdam", "april", "asia", "asian", "athens", "august",
    "australia", "australian", "bangkok", "barcelona", "beijing", "berlin", "boston", "brazil", "britain", "british",
    "brooklyn", "budapest", "cairo", "california", "canada", "canadian", "chicago", "china", "chinese", "december",
    "dubai", "dublin", "dutch", "egypt", "egyptian", "england", "english", "europe", "european", "february",
    "florence", "france", "french", "german", "germany", "greece", "greek", "hawaii", "india", "indian", "istanbul",
    "italian", "italy", "january", "japan", "japanese", "jerusalem", "july", "june", "korea", "korean", "kyoto",
    "lisbon", "london", "madrid", "manhattan", "mexican", "mexico", "moscow", "mumbai", "november", "october",
    "paris", "philadelphia", "prague", "rome", "russia", "russian", "scotland", "scottish", "seattle", "seoul",
    "september", "shanghai", "singapore", "spain", "spanish", "sydney", "texas", "tokyo", "toronto", "turkish",
    "venice", "vienna", "washington", "zurich",
))  # fmt: skip
# Before many, or before what is not counted: no article goes before these either.
QUANTIFIERS = frozenset({
    "various", "multiple", "numerous", "countless", "much", "more", "most", "lots", "plenty", "enough", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty",
    "sixty", "seventy", "eighty", "ninety",
})  # fmt: skip
PRONOUNS = frozenset({
    "anybody", "anyone", "anything", "everybody", "everyone", "everything", "nobody", "nothing", "somebody", "someone",
    "something", "how", "why",
})  # fmt: skip
# What inflect takes for nouns of which others are the plural: "them" of "her".
PRONOUN_FORMS = frozenset({
    "an", "he", "her", "hers", "herself", "him", "himself", "his", "i", "it", "its", "itself", "me", "mine", "my",
    "myself", "our", "she", "that", "them", "they", "this", "us", "we", "you", "your", "yourself",
})  # fmt: skip
# Not counted: no "a" goes before one that is said by itself ("water in a glass", but "a water bottle"). Those that
# are often counted too ("a glass", "a coffee", "a sky", "a fire") are left out.
MASS_NOUNS = frozenset((
    "art", "artwork", "asphalt", "bacon", "baggage", "blood", "bread", "broccoli", "butter", "cardboard", "cash",
    "cereal", "cheese", "clay", "clothing", "concrete", "corn", "cotton", "cutlery", "darkness", "debris", "dirt",
    "driftwood", "dust", "equipment", "fabric", "flour", "foliage", "food", "fur", "furniture", "garbage", "garlic",
    "gear", "glassware", "gold", "graffiti", "grass", "gravel", "greenery", "hail", "hay", "ice", "jewelry",
    "lava", "leather", "lightning", "litter", "luggage", "lumber", "machinery", "meat", "merchandise", "metal",
    "milk", "mist", "money", "moonlight", "moss", "mud", "music", "nature", "oil", "pasta", "pork", "pottery",
    "produce", "rice", "rubbish", "rubble", "rust", "sand", "scenery", "seafood", "seaweed", "silver", "silverware",
    "smoke", "snow", "soap", "soil", "spaghetti", "steam", "steel", "straw", "stuff", "sugar", "sunlight",
    "sunshine", "sushi", "tableware", "traffic", "trash", "vegetation", "water", "weather", "wheat", "wildlife",
    "wine", "wood", "wool",
))  # fmt: skip
# Stand before a noun, so that it is the next word that tells one from many: "young people", "green grass".
ADJECTIVES = frozenset((
    "abandoned", "abstract", "adorable", "adult", "animated", "antique", "artistic", "bare", "beautiful", "big",
    "black", "blond", "blonde", "blue", "blurry", "bright", "brown", "busy", "calm", "clean", "clear", "close",
    "cloudy", "cold", "colored", "colorful", "colourful", "cozy", "cropped", "crowded", "curly", "cute", "dark",
    "dead", "decorative", "deep", "dense", "detailed", "different", "digital", "dirty", "distant", "dry", "elderly",
    "elegant", "empty", "famous", "fancy", "fat", "female", "flat", "floral", "foggy", "fresh", "frozen", "full",
    "funny", "furry", "giant", "golden", "gray", "green", "grey", "happy", "heavy", "high", "historic", "hot",
    "huge", "large", "light", "little", "lonely", "long", "low", "male", "modern", "muddy", "naked", "narrow",
    "nice", "old", "orange", "ornate", "outdoor", "pale", "pink", "pretty", "purple", "rainy", "red", "round",
    "rural", "rusty", "sad", "sandy", "scary", "shaggy", "shallow", "short", "silver", "small", "smiling",
    "snowy", "soft", "spotted", "striped", "stylish", "sunny", "tall", "thick", "thin", "tiny", "traditional",
    "tropical", "typical", "urban", "vintage", "warm", "wet", "white", "wide", "wild", "wooden", "yellow", "young",
))  # fmt: skip
# Verbs that follow what a picture shows, without an ending: "dogs run", "cars parked". Those in -ing and -ed are known.
VERBS = frozenset((
    "carry", "catch", "drive", "eat", "feed", "fight", "fly", "gather", "get", "go", "graze", "hang", "hold", "jump",
    "kiss", "lay", "lie", "line", "look", "made", "move", "play", "pose", "race", "rest", "ride", "run", "sail",
    "seen", "sit", "skate", "sleep", "stand", "surround", "swim", "take", "talk", "wait", "walk", "watch", "wear",
    "work",
))  # fmt: skip
# Words in -ing that are things: "a cartoon building", "sports clothing".
THINGS_IN_ING = frozenset((
    "building", "ceiling", "clothing", "earring", "king", "lightning", "ring", "string", "swing", "thing",
    "wedding", "wing",
))  # fmt: skip
# Further ones, which a domain's word before them does not always name: "oil painting".
MADE_IN_ING = frozenset({"carving", "drawing", "engraving", "etching", "lighting", "lettering", "painting", "printing"})
# Nouns that captions begin with, besides the classes of data sets and their synonyms: kinds of picture, people,
# places, sights. Names of people are none of them ("Rose", "Art", "Holly").
COMMON_NOUNS = frozenset((
    "aerial", "alley", "animal", "apple", "artwork", "background", "banana", "barn", "beach", "bear", "bedroom",
    "bike", "building", "bunch", "butterfly", "cake", "camel", "camera", "cartoon", "castle", "chapter", "character",
    "children", "church", "city", "cityscape", "close-up", "closeup", "collage", "comic", "cottage", "cover", "crowd",
    "depiction", "desk", "diagram", "doodle", "dozen", "dozens", "drawing", "elephant", "face", "family", "farm",
    "father", "field", "fish", "flock", "flower", "food", "forest", "fox", "frog", "front", "fruit", "furniture",
    "garden", "giraffe", "glass", "grandmother", "graphic", "grass", "group", "half", "harbor", "harbour", "herd",
    "hill", "house", "illustration", "image", "inside", "interior", "island", "kitchen", "lake", "landscape", "leaf",
    "lighthouse", "line", "lion", "logo", "lots", "man", "map", "meadow", "monkey", "moon", "mother", "motorcyclist",
    "mountain", "mural", "night", "office", "page", "painting", "pair", "pencil", "people", "photo", "photograph",
    "picture", "piece", "pile", "plate", "portrait", "poster", "print", "rabbit", "reflection", "restaurant", "river",
    "road", "room", "row", "scene", "screenshot", "sculpture", "sea", "seascape", "set", "shop", "side", "silhouette",
    "sketch", "snow", "squirrel", "stack", "statue", "still", "street", "strip", "sunflower", "sunrise", "sunset",
    "superhero", "table", "tiger", "town", "toy", "tree", "turtle", "tutorial", "unidentified", "variety", "view",
    "village", "wall", "water", "watercolor", "watercolour", "wave", "window", "winter", "woman", "wooden", "zebra",
))  # fmt: skip
# Spelled letter by letter though they are written small and have a vowel: "an nba player", "a ufo".
SPELLED = frozenset({"atm", "eu", "fbi", "mri", "nba", "suv", "ufo", "uk", "usa", "usb"})
# Written short and spoken whole: "a st bernard".
ABBREVIATIONS = frozenset({"dr", "mr", "mrs", "ms", "mt", "sgt", "st"})
# Words of real captions to which inflect gives the other article. Ours stays, as another article changes the features.
KEPT_ARTICLES = {"suv": "an", "uscat": "an", "usd": "an", "usher": "an"}
