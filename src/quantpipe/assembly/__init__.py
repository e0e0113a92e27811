"""What several stages put together in the same way from the domain packages."""
