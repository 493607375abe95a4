"""Tests of the data sets: finding, downloading and reading them."""
