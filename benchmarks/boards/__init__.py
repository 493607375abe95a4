"""What learning and TLS take of a board: memory, time and bytes, measured on emulated ones (`make bench-boards`)."""
