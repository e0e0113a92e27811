"""Several processes that do one piece of work together."""
