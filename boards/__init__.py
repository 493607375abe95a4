"""The host's side of boards: what is compiled for them, put on them over a serial port, and sent to them as updates."""
