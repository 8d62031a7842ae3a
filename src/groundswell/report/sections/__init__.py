"""The chapters of the report: each from what was found to a `Section`, or None where nothing was."""
