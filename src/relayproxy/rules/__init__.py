"""The rule language: what an admin writes under `rules:`, compiled once to closures and asked for each message.

Facts, operators and actions are tables (fact_table.py, operators.py, actions.py); validation, JSON Schema, documentation
and suggestions come from them. Must not know YAML, files of the configuration, or the pipeline that asks.
"""
