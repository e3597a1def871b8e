"""llmgen: a generative LLM recommender with prompt templates."""
