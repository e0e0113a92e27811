"""Networks that compute as INT8 would."""
