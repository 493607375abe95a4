"""The coordinator: publishes the initialization, hands out work, and folds in what devices learned."""
