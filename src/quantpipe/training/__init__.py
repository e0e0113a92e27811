"""The one training loop and its mathematics: losses, assignment, RepOptimizer, distillation."""
