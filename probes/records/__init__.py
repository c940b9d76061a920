"""The report as data, files that last, and what differs between two."""
