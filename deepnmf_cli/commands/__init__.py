"""The subcommands: each module parses, calls the library, and reports. Heavy imports happen inside the functions."""
