"""The recommender: prompts, search and priors together as lists, ratings, reasons and reranked documents."""
