"""What a report writes: a terminal table, a page, a CSV file."""
