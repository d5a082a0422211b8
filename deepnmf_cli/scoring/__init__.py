"""Scores of enhanced speech against a clean reference: numbers from arrays, tables and reports from numbers."""
