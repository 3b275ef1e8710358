"""The verbs: one module each, named after the command."""
