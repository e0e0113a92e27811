"""What a person sees of a run: progress, tables, pictures, the report. Nothing here needs torch."""
