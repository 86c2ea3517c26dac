"""One module per command: the only place that parses arguments and prints."""
