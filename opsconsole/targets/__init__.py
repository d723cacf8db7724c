"""The target database, seen from outside: addresses, sessions, tools, schema, activity.

Imports no models and no settings; raises AdapterError.
"""
