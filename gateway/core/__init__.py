"""The vocabulary every other room speaks.  Imports only the standard library."""
