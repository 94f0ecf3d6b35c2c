"""Operators of the domain com.microsoft that become several IR operators, by `frontends.registry.converter`."""
