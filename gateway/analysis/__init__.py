"""What can be said about a configuration without sending a request: lints, tests, explanations."""
