"""One folder for each family of detectors."""
