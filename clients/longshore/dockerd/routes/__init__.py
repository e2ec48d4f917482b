"""One module per noun of the Engine API; each holds a table of routes and the handlers it names."""
