"""Store: items and events in a database that several processes share, durable as soon as a write returns.

    store = Store.open("sqlite:///shop.db")              # or postgresql://user:password@host/name
    store.put_items([Item("1", "Alien", {"year": 1979})])
    store.add_events([Event("order-7", user="196", item="1")])
    store.history("196")                                 # what the user took, oldest first
    data = store.dataset()                               # catalog and log, to fit priors on

SQLAlchemy is underneath. SQLite, in a file beside the service, is enough for one machine; PostgreSQL is for replicas.
"""

from llmgen.events import Event
from llmgen.store.database import Store
from llmgen.store.values import Added, ItemChanges, Statistics

__all__ = ["Added", "Event", "ItemChanges", "Statistics", "Store"]
