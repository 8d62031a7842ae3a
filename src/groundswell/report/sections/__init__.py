"""The chapters of the report: each a function from what was found to a `Section`, or None where there is nothing to say."""
