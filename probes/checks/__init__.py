"""The checklist and what joins it."""
