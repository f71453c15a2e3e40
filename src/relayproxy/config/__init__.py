"""Floor 5: the configuration: YAML with positions, the models, the checks, and what is told to the admin.

Must not know how anything is run: it ends in values (`models.Config`) and in problems with a file, a line and a
column. The app maps the values onto the runtime.
"""
