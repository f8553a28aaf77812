"""Simulated people: scenes as data, their motion, their pictures and the truth about them."""
