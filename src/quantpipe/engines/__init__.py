"""Building, loading, running and timing inference engines, each behind one seam."""
