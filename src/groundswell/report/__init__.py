"""The report: one self-contained HTML file from archives, runs, embedding tables and results."""
