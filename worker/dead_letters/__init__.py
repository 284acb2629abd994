"""Dead letters: the letter as a value, and what is done with many of them. No I/O."""
