"""What breaks runs, many times over: kills, generated configurations, damaged files, broken machines. `make campaign`."""
