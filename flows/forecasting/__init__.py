"""The forecast from the command line: recipes read, and the studies that its table is made from."""
