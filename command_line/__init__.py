"""The `tinyreptile` command: each module one subcommand, nothing but options, progress and tables."""
