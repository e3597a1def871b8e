"""Items: the catalog of what can be recommended, and how catalogs that came from one another share their items."""
