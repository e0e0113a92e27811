"""The runner and its store: what knows nothing of detectors, and everything of keys and files."""
