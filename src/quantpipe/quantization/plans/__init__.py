"""Which operations stay in float: by a ranking, by a budget, by latency."""
