"""The fault bench: a real coordinator, broker and fleet, broken in every way that we can think of; what is promised
must hold all the same."""
