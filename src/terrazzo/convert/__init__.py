"""Recipes made of other programs' configurations, and what of those has no counterpart here."""
