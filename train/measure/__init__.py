"""How good a world is: a file for each question, and the report."""
