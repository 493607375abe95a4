"""Tests of the `tinyreptile` command."""
