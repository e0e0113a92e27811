"""Typed counterparts of the configuration groups that several stages share."""
