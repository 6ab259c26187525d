"""Moves a running OCI container to another host; its disk follows."""
