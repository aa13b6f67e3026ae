"""The shop's catalogue: 8 categories, 40 subcategories, 5,000 items with readable names. Names only, no preferences.

    category ─ 5 subcategories ─ 125 items each (25 adjectives x 5 nouns)

Five videos carry the titles and fixed ids of Mara's worked example (source 3).
"""

from __future__ import annotations

import numpy as np

from schemas.items import Item

ITEMS_PER_SUBCATEGORY = 125

# Category -> subcategory -> (median price, days between repeat purchases or 0, the five nouns of its titles).
CATALOGUE: dict[str, dict[str, tuple[float, int, str]]] = {
    "videos": {
        "cooking": (0, 0, "pasta night, one-pot dinner, curry lesson, bread baking, street food at home"),
        "study-music": (0, 0, "piano hour, rain and keys, library ambience, synth session, late-night beats"),
        "running": (0, 0, "5k plan, marathon diary, hill session, race recap, form clinic"),
        "desk-setups": (0, 0, "desk tour, cable makeover, standing desk review, monitor layout, tiny office"),
        "travel": (0, 0, "night train, island week, city walk, mountain hut, food market"),
    },
    "groceries": {
        "coffee": (11, 7, "espresso beans, filter roast, decaf, cold brew, coffee pods"),
        "snacks": (4, 5, "nut mix, crackers, dark chocolate, popcorn, protein bars"),
        "breakfast": (5, 6, "granola, porridge oats, jam, honey, pancake mix"),
        "pantry": (6, 12, "olive oil, spaghetti, tomato sauce, basmati rice, spice set"),
        "drinks": (8, 6, "sparkling water, oat drink, green tea, orange juice, ginger beer"),
    },
    "household": {
        "cleaning": (7, 14, "kitchen spray, floor cleaner, sponges, descaler, glass cleaner"),
        "laundry": (12, 14, "detergent, softener, stain remover, wool wash, laundry sheets"),
        "paper-goods": (9, 10, "kitchen roll, tissues, napkins, baking paper, toilet paper"),
        "pet-food": (24, 9, "dry dog food, cat pouches, puppy food, bird seed, fish flakes"),
        "pet-toys": (10, 0, "rope toy, scratching post, laser mouse, chew bone, treat ball"),
    },
    "fashion": {
        "sneakers": (85, 0, "court sneakers, retro runners, canvas shoes, high tops, slip-ons"),
        "jackets": (120, 0, "rain jacket, parka, denim jacket, fleece, down vest"),
        "dresses": (70, 0, "summer dress, wrap dress, knit dress, shirt dress, midi dress"),
        "bags": (65, 0, "backpack, tote, crossbody bag, weekender, belt bag"),
        "watches": (150, 0, "field watch, diver, chronograph, digital watch, dress watch"),
    },
    "sports": {
        "running-shoes": (125, 0, "trail shoes, tempo shoes, daily trainers, race flats, stability shoes"),
        "cycling": (60, 0, "helmet, bib shorts, bike lights, multitool, pannier"),
        "yoga": (35, 0, "yoga mat, cork block, strap, bolster, towel"),
        "camping": (90, 0, "two-person tent, sleeping bag, gas stove, headlamp, camp chair"),
        "fitness": (45, 0, "kettlebell, resistance bands, jump rope, foam roller, dumbbells"),
    },
    "electronics": {
        "headphones": (110, 0, "over-ear headphones, earbuds, studio headphones, sport earphones, headset"),
        "keyboards": (95, 0, "mechanical keyboard, low-profile keyboard, number pad, split keyboard, keycap set"),
        "monitors": (290, 0, "27-inch monitor, ultrawide, portable screen, 4K monitor, monitor arm"),
        "cameras": (480, 0, "mirrorless camera, action camera, instant camera, prime lens, tripod"),
        "phones": (420, 0, "smartphone, phone case, power bank, charger, folding phone"),
    },
    "home": {
        "cookware": (55, 0, "cast-iron pan, saucepan, chef knife, wok, baking tin"),
        "lighting": (48, 0, "desk lamp, floor lamp, light strip, pendant, bedside lamp"),
        "desks": (240, 0, "standing desk, corner desk, desk mat, drawer unit, office chair"),
        "bedding": (75, 0, "duvet, linen sheets, pillow, blanket, mattress topper"),
        "plants": (22, 0, "monstera, fern, succulent trio, olive tree, planter"),
    },
    "books": {
        "fiction": (14, 0, "novel, short stories, thriller, love story, saga"),
        "cookbooks": (26, 0, "weeknight cookbook, baking book, vegan cookbook, noodle book, grill book"),
        "history": (20, 0, "world history, biography, city history, war diary, atlas of empires"),
        "science": (19, 0, "physics primer, brain book, evolution story, space guide, maths puzzles"),
        "comics": (16, 0, "graphic novel, manga volume, strip collection, superhero omnibus, webcomic print"),
    },
}  # fmt: skip
CATEGORIES: tuple[str, ...] = tuple(CATALOGUE)
SUBCATEGORIES: tuple[str, ...] = tuple(sub for subs in CATALOGUE.values() for sub in subs)
SUBCATEGORY_NO: dict[str, int] = {name: number for number, name in enumerate(SUBCATEGORIES)}
CATEGORY_OF: tuple[int, ...] = tuple(no for no, subs in enumerate(CATALOGUE.values()) for _ in subs)
CYCLE_DAYS: tuple[int, ...] = tuple(days for subs in CATALOGUE.values() for _, days, _ in subs.values())

_ADJECTIVES = (
    "Classic", "Compact", "Organic", "Everyday", "Premium", "Light", "Bold", "Nordic", "Urban", "Vintage", "Smart", "Soft",
    "Rustic", "Bright", "Quiet", "Sturdy", "Fresh", "Slim", "Golden", "Coastal", "Alpine", "Modern", "Simple", "Grand", "Little",
)  # fmt: skip
_VIDEO_ADJECTIVES = (
    "Easy", "Slow", "Live", "Five-minute", "Weekend", "Honest", "First", "Ultimate", "Cosy", "Winter", "Summer", "Midnight",
    "Budget", "Advanced", "Beginner's", "Rainy-day", "Sunday", "Minimal", "Classic", "Deep", "Fast", "Sunny", "Friendly",
    "Secret", "Big",
)  # fmt: skip

# Mara's five: subcategory, title, id. They take the first places of their subcategories.
STORY = (
    ("cooking", "Easy weeknight pasta", "video-weeknight-pasta"),
    ("study-music", "Lo-fi study mix", "video-lofi-study-mix"),
    ("running", "City marathon recap", "video-city-marathon"),
    ("running", "Trail running in the Alps", "video-trail-running-alps"),
    ("desk-setups", "Desk setup tour", "video-desk-setup-tour"),
)
_SELLERS_PER_CATEGORY = 24


def build_items(rng: np.random.Generator) -> tuple[Item, ...]:
    """All items in order of subcategory. Prices in euros, videos free; 3 % of the goods are out of stock."""
    items: list[Item] = []
    for category, subcategories in CATALOGUE.items():
        for subcategory, (median, _, nouns) in subcategories.items():
            fixed = [(title, item_id) for sub, title, item_id in STORY if sub == subcategory]
            adjectives = _VIDEO_ADJECTIVES if category == "videos" else _ADJECTIVES
            titles = [f"{adjective} {noun}" for noun in nouns.split(", ") for adjective in adjectives]
            for number in range(ITEMS_PER_SUBCATEGORY):
                spread, sold_out = rng.standard_normal(), rng.random() < 0.03
                stock, seller = int(rng.integers(1, 500)), int(rng.integers(_SELLERS_PER_CATEGORY))
                title, item_id = (
                    fixed[number] if number < len(fixed) else (titles[number], f"{subcategory}-{number:03d}")
                )
                items.append(
                    Item(
                        item_id=item_id,
                        title=title,
                        category=category,
                        subcategory=subcategory,
                        seller=f"{category}-seller-{seller:02d}",
                        price=round(float(median * np.exp(0.4 * spread)), 2),
                        stock=None if category == "videos" else 0 if sold_out else stock,
                    )
                )
    return tuple(items)
