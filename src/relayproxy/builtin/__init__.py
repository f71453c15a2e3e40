"""Floor 4: the plugins that come with relayproxy, written against relayproxy.api like anybody's.

A module here may import relayproxy.api and relayproxy.mailauth, and nothing that only a built-in could reach.
"""
