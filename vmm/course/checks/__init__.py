"""The checkers, one for the exercise of each chapter: ``check(mine, step)``.

``mine`` is the reader's file as a module. A checker calls ``step`` with what is right, and raises
:class:`~vmm.course.missing.Missing` with the first thing that is not.
"""
