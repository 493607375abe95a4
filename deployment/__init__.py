"""The security of a deployment: who may do what at the broker, the credentials of a fleet, and the broker's files."""
