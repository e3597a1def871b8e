"""Recommend to somebody of whom only a wish is known, also items that nobody has taken yet.

python examples/cold_start.py "a quiet evening with jazz" --filter year=..1970
python examples/cold_start.py "something to dance to" --engine hf
"""

import argparse
from pathlib import Path

from llmgen import Item, Query, Recommender, TextQuery, load_engine, load_tables

DATA = Path(__file__).parent / "data"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("wish", nargs="?", default="a quiet evening with jazz", help="in the user's own words")
parser.add_argument("--filter", action="append", default=[], metavar="NAME=VALUE", help="such as year=1990..1999")
parser.add_argument("--engine", default="none", help="none (the words alone), hf, hf:MODEL, openai:URL, ...")
parser.add_argument("-k", type=int, default=3, help="how many")
options = parser.parse_args()

# Prompts and TextQuery read what is shown; filters may ask for any attribute.
kept = {"attributes": ["genre", "year"], "shown": ["genre"], "noun": "song"}
songs = load_tables(DATA / "songs.csv", DATA / "plays.csv", **kept).catalog

# Wish reads the words of the query by BM25, in titles and attributes: no log is needed, and no training.
engine = None if options.engine == "none" else load_engine(options.engine)
recommender = Recommender(songs, engine, prompt="cold_start", priors=[TextQuery(songs)])
query = Query(text=options.wish, filters=dict(one.split("=", 1) for one in options.filter), k=options.k)
print(f"Wish: {options.wish}")
for place in recommender.recommend(query):
    print(
        f"{place.rank}. {songs.label(place.item)} ({place.item.attributes['genre']}, {place.item.attributes['year']})"
    )

# A song that came out today is recommended at once.
new = Item("s13", "Midnight Jazz for a Quiet Evening", {"genre": "jazz", "year": 1960})
first = recommender.with_catalog(songs.with_items([new])).recommend(query)[0]
print(f"With a new song: {first.item.title}")
