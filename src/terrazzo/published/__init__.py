"""Networks as other codebases published them: parameters have the published names, so weights load as they are."""
