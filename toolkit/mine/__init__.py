"""Removal of what a project made from this template does not need; used by `make mine`."""
