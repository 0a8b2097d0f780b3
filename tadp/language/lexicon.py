"""Tables of English words for `tadp.language.grammar`. None is complete; no rule touches a word that is in no table."""

ARTICLES = frozenset({"a", "an", "the"})
# A noun phrase that begins with one of these has its determiner, so it takes no article.
DETERMINERS = ARTICLES | {
    "this", "that", "these", "those", "some", "any", "no", "each", "every", "both", "all", "my", "his", "her",
    "its", "their", "our", "your", "another", "several", "many", "few", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
}  # fmt: skip
# Words that carry no content. A content word is in neither this table nor DETERMINERS.
FUNCTION_WORDS = frozenset((
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "nor", "is", "are", "was", "were", "be", "been", "being", "has",
    "have", "had", "do", "does", "did", "there", "here", "it", "he", "she", "they", "we", "i", "you", "him", "them",
    "us", "who", "whom", "whose", "which", "what", "while", "when", "where", "than", "then", "so", "very", "shown",
    "showing", "shows", "depicted", "depicting", "depicts", "featuring", "features",
))  # fmt: skip
# No complete phrase ends in one of these: if one is last, the words after it have been lost.
DANGLING = ARTICLES | {
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "is", "are", "was", "were", "be", "shown", "painted", "drawn",
    "depicted", "rendered",
}  # fmt: skip
# One-word names that begin captions: cities, countries, their adjectives, months.
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
# Words before plurals or uncountable nouns, which take no article either.
QUANTIFIERS = frozenset({
    "various", "multiple", "numerous", "countless", "much", "more", "most", "lots", "plenty", "enough", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty",
    "sixty", "seventy", "eighty", "ninety",
})  # fmt: skip
PRONOUNS = frozenset({
    "anybody", "anyone", "anything", "everybody", "everyone", "everything", "nobody", "nothing", "somebody", "someone",
    "something", "how", "why",
})  # fmt: skip
# Pronouns that inflect treats as nouns with a plural: "them" for "her".
PRONOUN_FORMS = frozenset({
    "an", "he", "her", "hers", "herself", "him", "himself", "his", "i", "it", "its", "itself", "me", "mine", "my",
    "myself", "our", "she", "that", "them", "they", "this", "us", "we", "you", "your", "yourself",
})  # fmt: skip
# Uncountable nouns: they take no "a" unless another noun follows ("water in a glass", but "a water bottle"). Nouns that
# are often countable too ("a glass", "a coffee", "a sky", "a fire") are left out.
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
# Adjectives before a noun. The word after them shows whether the phrase is plural: "young people", "green grass".
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
# Verbs without an ending that follow a noun in captions: "dogs run". A rule recognises those in -ing and -ed.
VERBS = frozenset((
    "carry", "catch", "drive", "eat", "feed", "fight", "fly", "gather", "get", "go", "graze", "hang", "hold", "jump",
    "kiss", "lay", "lie", "line", "look", "made", "move", "play", "pose", "race", "rest", "ride", "run", "sail",
    "seen", "sit", "skate", "sleep", "stand", "surround", "swim", "take", "talk", "wait", "walk", "watch", "wear",
    "work",
))  # fmt: skip
# Nouns in -ing: "a cartoon building", "sports clothing".
THINGS_IN_ING = frozenset((
    "building", "ceiling", "clothing", "earring", "king", "lightning", "ring", "string", "swing", "thing",
    "wedding", "wing",
))  # fmt: skip
# Further nouns in -ing, which a domain's word before them does not always describe: "oil painting".
MADE_IN_ING = frozenset({"carving", "drawing", "engraving", "etching", "lighting", "lettering", "painting", "printing"})
# Nouns that captions begin with, besides the classes of data sets and their synonyms: kinds of picture, people,
# places, sights. Words that are also first names ("Rose", "Art", "Holly") are left out.
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
# Pronounced letter by letter although they are in lower case and have a vowel: "an nba player", "a ufo".
SPELLED = frozenset({"atm", "eu", "fbi", "mri", "nba", "suv", "ufo", "uk", "usa", "usb"})
# Abbreviations that are pronounced in full: "a st bernard".
ABBREVIATIONS = frozenset({"dr", "mr", "mrs", "ms", "mt", "sgt", "st"})
# Words of real captions for which inflect gives the other article. We keep ours: the article affects the features.
KEPT_ARTICLES = {"suv": "an", "uscat": "an", "usd": "an", "usher": "an"}
