"""The report on a dataset and its plan: one HTML file that opens offline."""
