"""The cache as other frameworks expect one: a module for each, which imports its framework and the public API alone.

Nothing is imported from here, so that a framework that is not installed is missed only by who asks for it. Each module
says which extra installs its own.
"""
