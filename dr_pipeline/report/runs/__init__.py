"""The pages of training runs: of one, of several side by side, and of a tuning's."""
