"""Everything that `serve` can be told, by a file or by flags: stated once, checked as a whole before it is used."""
