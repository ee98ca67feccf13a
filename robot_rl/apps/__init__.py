"""The command line: one module per verb, and the only place that knows every folder."""
