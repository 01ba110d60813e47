"""The generated pages of the documentation. `python -m tests.docs` writes them; a test compares them with the code.

Each page is a template, in which a line such as `<!-- routes -->` stands for a part that is made from the code.
"""
