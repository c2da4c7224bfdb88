"""A recipe before it is trained: what it builds, weighs and costs."""
