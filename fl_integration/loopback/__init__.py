"""An engine's processes on this machine: certificates for a day, processes that all end."""
