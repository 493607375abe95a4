"""Swarms of simulated devices over a real broker, the tasks they learn, and the demonstration."""
