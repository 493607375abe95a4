"""Decoders under fuzzing: whatever bytes come, only the error that is said to come, and the same answer everywhere."""
