"""The command: composed, checked, run and shown."""
