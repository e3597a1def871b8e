"""Recommend from a table of items and a table of who took what when.

python examples/from_two_csv_files.py
python examples/from_two_csv_files.py --items my-items.csv --interactions my-log.csv --user 42
python examples/from_two_csv_files.py --engine hf      # with a language model beside the priors
"""

import argparse
from pathlib import Path

from llmgen import Popularity, Query, Recommender, Transition, histories, leave_one_out, load_engine, load_tables

DATA = Path(__file__).parent / "data"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--items", type=Path, default=DATA / "songs.csv", help="columns item_id and title, and any others")
parser.add_argument("--interactions", type=Path, default=DATA / "plays.csv", help="user_id, item_id and timestamp")
parser.add_argument("--user", default="u00", help="who gets recommendations")
parser.add_argument("--engine", default="none", help="none (the priors alone), hf, hf:MODEL, openai:URL, ...")
parser.add_argument("-k", type=int, default=3, help="how many")
options = parser.parse_args()

# Load both tables. Rows that are wrong are told with file, row and column.
data = load_tables(options.items, options.interactions)
print(f"{len(data.catalog)} items, {len(data.interactions)} interactions")

# Choose the weights of the priors on items that are held out: the last but one item of each user.
split = leave_one_out(data.interactions)
before = histories(split.train, catalog=data.catalog)
asked = [Query(history=before[user].items) for user in split.validation["user_id"] if user in before]
wanted = [item for user, item in split.validation.select("user_id", "item_id").iter_rows() if user in before]
priors = [Transition.fit(split.train, data.catalog), Popularity.fit(split.train, data.catalog)]
tuned = Recommender(data.catalog, None, priors=priors).tune(asked, wanted, k=options.k)
weights = {prior.name: prior.weight for prior in tuned.recommender.priors}
print(f"weights chosen on {len(asked)} held-out items: {weights}, NDCG@{options.k} {tuned.score:.3f}")

# Fit again on the whole log with these weights, and answer.
kinds = {"transition": Transition, "popularity": Popularity}
fitted = [kinds[name].fit(data.interactions, data.catalog, weight=weight) for name, weight in weights.items()]
engine = None if options.engine == "none" else load_engine(options.engine)
recommender = Recommender(data.catalog, engine, priors=fitted)
known = histories(data.interactions, catalog=data.catalog)
print(f"{options.user} took {', '.join(item.title for item in known[options.user].items)}")
for place in recommender.recommend(Query(history=known[options.user].items, user_id=options.user, k=options.k)):
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in place.terms.items())
    print(f"{place.rank}. {data.catalog.label(place.item)}  {place.probability:.0%}  ({parts})")
