"""Servers that cheat, one file each; a new one is a file and a line here."""

BUILT_IN = {
    "fishing": "privbench.servers.fishing:Fishing",
    "imprint": "privbench.servers.imprint:ImprintServer",
}
"""Registered name to `module:class`."""
