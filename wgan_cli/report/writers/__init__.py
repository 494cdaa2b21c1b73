"""Write a comparison of runs: a terminal table, an HTML page, a PNG picture, a CSV file."""
